-- ARGV: ids. Returns the ids of those that had finished, and are deleted.
local deleted = {}
for _, id in ipairs(ARGV) do
  local status = call('HGET', task_key(id), 'status')
  if status and not LIVE[status] then
    delete(id)
    deleted[#deleted + 1] = id
  end
end
flush()
return deleted
