-- ARGV: instance ids. Returns {name, number} pairs, a name possibly several times.
local out = {}
for _, owner in ipairs(ARGV) do
  for _, group in ipairs(call('SMEMBERS', P .. 'groups:' .. owner)) do
    out[#out + 1] = {string.sub(group, 2), call('ZCARD', live_key(owner, group))}
  end
end
return out
