-- ARGV: instance id, heartbeat that was seen, mark of this call. Returns 1 to the one caller who declared it; with
-- the mark, that caller can repeat the call if the first answer was lost.
local key = P .. 'instance:' .. ARGV[1]
local stored = call('HMGET', key, 'state', 'heartbeat', 'declared_by')
if stored[1] == 'dead' and stored[3] == ARGV[3] then return 1 end
if stored[1] ~= 'alive' or stored[2] ~= ARGV[2] then return 0 end
call('HSET', key, 'state', 'dead', 'declared_by', ARGV[3])
return 1
