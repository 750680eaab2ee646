-- ARGV: instance id, heartbeat, state, doc. Returns 0 when the instance was declared dead.
local key = P .. 'instance:' .. ARGV[1]
if call('HGET', key, 'state') == 'dead' then return 0 end
call('HSET', key, 'heartbeat', ARGV[2], 'state', ARGV[3], 'doc', ARGV[4])
call('SADD', P .. 'instances', ARGV[1])
return 1
