-- ARGV: the number of expected settings; then of each expected one, and of each change: key, '1' or '0' (there is none),
-- value. Returns 1, or 0 when a setting is not as expected.
local first_change = 2 + 3 * tonumber(ARGV[1])
for n = 2, first_change - 1, 3 do
  local stored = call('HGET', P .. 'settings', ARGV[n])
  if stored ~= (ARGV[n + 1] == '1' and ARGV[n + 2]) then return 0 end
end
for n = first_change, #ARGV, 3 do
  if ARGV[n + 1] == '1' then
    call('HSET', P .. 'settings', ARGV[n], ARGV[n + 2])
    call('ZADD', P .. 'setting_names', 0, ARGV[n])
  else
    call('HDEL', P .. 'settings', ARGV[n])
    call('ZREM', P .. 'setting_names', ARGV[n])
  end
end
return 1
