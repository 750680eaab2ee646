-- ARGV: instance ids. Returns {group, number} pairs, a group possibly several times.
local out = {}
for _, owner in ipairs(ARGV) do
  for _, group in ipairs(call('SMEMBERS', P .. 'groups:' .. owner)) do
    out[#out + 1] = {group, call('ZCARD', live_key(owner, group))}
  end
end
return out
