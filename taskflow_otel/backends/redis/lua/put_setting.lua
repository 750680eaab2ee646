-- ARGV: key and value; without a value the setting is deleted.
if ARGV[2] then
  call('HSET', P .. 'settings', ARGV[1], ARGV[2])
  call('ZADD', P .. 'setting_names', 0, ARGV[1])
else
  call('HDEL', P .. 'settings', ARGV[1])
  call('ZREM', P .. 'setting_names', ARGV[1])
end
return 1
