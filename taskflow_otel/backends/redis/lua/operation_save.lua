-- ARGV: id, token that must be stored, token, status, end (or ''), text, then for each item: position, task, text.
-- Returns 1, or 0 if another owner has the operation or it has ended.
local key = P .. 'operation:' .. ARGV[1]
local stored = call('HMGET', key, 'token', 'ended')
if stored[1] ~= ARGV[2] or stored[2] then return 0 end
call('HSET', key, 'token', ARGV[3], 'status', ARGV[4], 'doc', ARGV[6])
if ARGV[5] ~= '' then
  call('HSET', key, 'ended', ARGV[5])
  call('ZREM', P .. 'operations_open', ARGV[1])
  call('ZADD', P .. 'operations_ended', ARGV[5], ARGV[1])
end
for n = 7, #ARGV, 3 do
  call('HSET', P .. 'operation_items:' .. ARGV[1], ARGV[n], ARGV[n + 2])
  call('ZADD', P .. 'operations_of:' .. ARGV[n + 1], 0, ARGV[1])
end
return 1
