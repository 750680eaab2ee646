-- ARGV: task id. Returns 1 if the task is live.
local stored = call('HMGET', task_key(ARGV[1]), 'status', 'owner')
if not LIVE[stored[1]] then return 0 end
call('HSET', task_key(ARGV[1]), 'cancel', '1')
call('SADD', P .. 'cancel:' .. stored[2], ARGV[1])
changed(ARGV[1], now(), stored[2])
flush()
-- An account may be forbidden to publish. Then the owner finds the request in its next round.
redis.pcall('PUBLISH', P .. 'pool_bell', 'cancel')
return 1
