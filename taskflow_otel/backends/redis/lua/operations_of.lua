-- ARGV: task, number. Returns the ids of the newest operations with this task.
return call('ZREVRANGEBYLEX', P .. 'operations_of:' .. ARGV[1], '+', '-', 'LIMIT', 0, ARGV[2])
