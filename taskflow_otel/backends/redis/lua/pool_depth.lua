-- ARGV: whether all other queues are wanted too, then queues. Returns {queue, number, since} for each of them that has
-- tasks in the pool: how many, and since when the oldest of its first ones is ready.
local LOOK = 100
local out, wanted, known = {}, {}, {}
for n = 2, #ARGV do wanted[#wanted + 1] = ARGV[n] end
if ARGV[1] == '1' then
  for _, queue in ipairs(wanted) do known[queue] = true end
  for _, queue in ipairs(call('SMEMBERS', P .. 'pool_queues')) do
    if not known[queue] then wanted[#wanted + 1], known[queue] = queue, true end
  end
  -- An earlier version did not note the queues. Among its tasks, the first ones are looked through.
  for n, about in ipairs(call('HSCAN', P .. 'pool_of', '0', 'COUNT', '200')[2]) do
    local queue = n % 2 == 0 and cjson.decode(about)[1]
    if queue and not known[queue] then wanted[#wanted + 1], known[queue] = queue, true end
  end
end
for _, queue in ipairs(wanted) do
  local key, oldest = P .. 'pool:' .. queue, ''
  for _, id in ipairs(call('ZRANGE', key, 0, LOOK - 1)) do
    local since = cjson.decode(call('HGET', P .. 'pool_of', id))[4]
    if oldest == '' or tonumber(since) < tonumber(oldest) then oldest = since end
  end
  -- Each priority has its own order of age: the last one may hide the oldest task.
  for _, id in ipairs(call('ZRANGE', key, -1, -1)) do
    local rank = call('ZSCORE', key, id)
    for _, eldest in ipairs(call('ZRANGEBYSCORE', key, rank, rank, 'LIMIT', 0, 1)) do
      local since = cjson.decode(call('HGET', P .. 'pool_of', eldest))[4]
      if tonumber(since) < tonumber(oldest) then oldest = since end
    end
  end
  if oldest ~= '' then out[#out + 1] = {queue, call('ZCARD', key), oldest} end
end
return out
