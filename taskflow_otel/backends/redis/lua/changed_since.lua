-- ARGV: moment, owner to leave out, limit.
local limit = tonumber(ARGV[3])
local found = {}
for _, owner in ipairs(call('ZRANGEBYSCORE', P .. 'owners', ARGV[1], '+inf')) do
  if owner ~= ARGV[2] then
    local some = call('ZRANGEBYSCORE', P .. 'changed:' .. owner, ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
    for n = 1, #some, 2 do found[#found + 1] = {tonumber(some[n + 1]), some[n]} end
  end
end
table.sort(found, function(a, b)
  if a[1] ~= b[1] then return a[1] < b[1] end
  return a[2] < b[2]
end)
local out = {}
for n = 1, math.min(limit, #found) do out[n] = row(found[n][2]) end
return out
