-- ARGV: for each entry its id, its time, its task and its operation (or ''), its text. An entry that is stored already
-- stays unchanged.
for n = 1, #ARGV, 5 do
  if call('HSETNX', P .. 'audit_entries', ARGV[n], ARGV[n + 4]) == 1 then
    call('ZADD', P .. 'audit', ARGV[n + 1], ARGV[n])
    for about = n + 2, n + 3 do
      if ARGV[about] ~= '' then call('ZADD', P .. 'audit_of:' .. ARGV[about], ARGV[n + 1], ARGV[n]) end
    end
  end
end
return 1
