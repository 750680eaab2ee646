-- ARGV: for each entry its id, its time, its task (or ''), its text. An entry that is stored already stays unchanged.
for n = 1, #ARGV, 4 do
  if call('HSETNX', P .. 'audit_entries', ARGV[n], ARGV[n + 3]) == 1 then
    call('ZADD', P .. 'audit', ARGV[n + 1], ARGV[n])
    if ARGV[n + 2] ~= '' then call('ZADD', P .. 'audit_of:' .. ARGV[n + 2], ARGV[n + 1], ARGV[n]) end
  end
end
return 1
