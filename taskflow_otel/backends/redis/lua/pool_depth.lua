-- ARGV: queues. Returns, for each, how many of its tasks are in the pool, and since when the oldest of its first ones is
-- ready (empty without any).
local LOOK = 100
local out = {}
for n, queue in ipairs(ARGV) do
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
  out[n] = {call('ZCARD', key), oldest}
end
return out
