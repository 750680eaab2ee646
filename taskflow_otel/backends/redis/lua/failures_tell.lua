-- ARGV: JSON list of {id, status, dims, fingerprint, failures}, of tasks that an earlier version has stored without the last two.
for _, told in ipairs(cjson.decode(ARGV[1])) do
  local id, status, dims, fingerprint, failures = unpack(told)
  local task = task_key(id)
  local stored = call('HMGET', task, 'status', 'dims', 'duration', 'failures', 'retried_by')
  if stored[1] == status and not stored[4] then
    local created, ended = call('ZSCORE', index_key('', status), id), call('ZSCORE', P .. 'finished', id)
    local duration = stored[3] and tonumber(stored[3])
    index(id, false, status, stored[2], duration)
    index(id, created, status, dims, duration)
    call('HSET', task, 'dims', dims, 'failures', failures)
    if fingerprint ~= '' then
      call('HSET', task, 'fingerprint', fingerprint)
      failure(id, ended, fingerprint, not stored[5])
    end
  end
end
flush()
return 1
