-- ARGV: instance ids.
for _, id in ipairs(ARGV) do
  local key = P .. 'instance:' .. id
  local state = call('HGET', key, 'state')
  if (state == 'dead' or state == 'stopped') and call('EXISTS', P .. 'groups:' .. id) == 0 then
    call('DEL', key, P .. 'handed:' .. id)
    call('SREM', P .. 'instances', id)
  end
end
return 1
