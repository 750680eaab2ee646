-- ARGV: writer, number, owner, then JSON: a list of [id, queue, negative priority, group, created, since]. Moves those of
-- these tasks that the owner has into the pool.
if superseded(ARGV[1], ARGV[2]) then return false end

local owner = ARGV[3]
for _, given in ipairs(cjson.decode(ARGV[4])) do
  local id, queue, rank, group, created, since = unpack(given)
  local stored = call('HMGET', task_key(id), 'owner', 'status')
  if stored[1] == owner and LIVE[stored[2]] then
    pass_on(id, owner, 'pool', group, created)
    call('ZADD', P .. 'pool:' .. queue, rank, id)
    call('SADD', P .. 'pool_queues', queue)
    call('HSET', P .. 'pool_of', id, cjson.encode({queue, group, created, since}))
  end
end
flush()
-- An account may be forbidden to publish. Then the others find the tasks in their next round.
redis.pcall('PUBLISH', P .. 'pool_bell', '')
return 1
