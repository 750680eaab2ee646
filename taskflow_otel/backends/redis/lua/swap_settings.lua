-- ARGV: the number of expected settings; then for each expected one and each change: key, '1' or '0' (no value), value.
-- Returns 1, or 0 if an expected setting does not match.
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
