-- ARGV: moment, limit. Deletes items of the operation that ended first, if that was before the moment, and once it has
-- no items the operation. Returns how many.
local id = call('ZRANGEBYSCORE', P .. 'operations_ended', '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1)[1]
if not id then return 0 end
local items, limit = P .. 'operation_items:' .. id, tonumber(ARGV[2])
local key = P .. 'operation:' .. id
local first = tonumber(call('HGET', key, 'forgotten') or '0')
local deleted = 0
while deleted < limit do
  local text = call('HGET', items, string.format('%d', first + deleted))
  if not text then break end
  local of_task = P .. 'operations_of:' .. cjson.decode(text).task_id
  call('ZREM', of_task, id)
  call('HDEL', items, string.format('%d', first + deleted))
  deleted = deleted + 1
end
if deleted == limit then
  call('HSET', key, 'forgotten', first + deleted)
  return deleted
end
local client_key = call('HGET', key, 'key')
if client_key and client_key ~= '' then call('HDEL', P .. 'operation_keys', client_key) end
call('DEL', key, items)
call('ZREM', P .. 'operations', id)
call('ZREM', P .. 'operations_ended', id)
return deleted + 1
