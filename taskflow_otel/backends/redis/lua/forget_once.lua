-- ARGV: prefix, bound, limit. Deletes names with this prefix that are less than the bound; returns how many.
local names = call('ZRANGEBYLEX', P .. 'once_names', '[' .. ARGV[1], '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])
for n, name in ipairs(names) do
  if name:sub(1, #ARGV[1]) ~= ARGV[1] then return n - 1 end
  call('HDEL', P .. 'once', name)
  call('ZREM', P .. 'once_names', name)
end
return #names
