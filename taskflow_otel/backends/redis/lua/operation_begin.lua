-- ARGV: id, client's key (or ''), kind, status, text. Returns the text of the operation that has the key or the id.
local id = ARGV[1]
if ARGV[2] ~= '' then
  call('HSETNX', P .. 'operation_keys', ARGV[2], id)
  id = call('HGET', P .. 'operation_keys', ARGV[2])
end
local key = P .. 'operation:' .. id
if call('EXISTS', key) == 0 then
  call('HSET', key, 'token', '0', 'kind', ARGV[3], 'status', ARGV[4], 'key', ARGV[2], 'doc', ARGV[5])
  call('ZADD', P .. 'operations', 0, id)
  call('ZADD', P .. 'operations_open', 0, id)
end
return call('HGET', key, 'doc')
