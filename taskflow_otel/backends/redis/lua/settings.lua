-- ARGV: prefix. Returns the settings whose keys begin with it: key, value, key, value, ...
local found = {}
for n, key in ipairs(call('ZRANGEBYLEX', P .. 'setting_names', '[' .. ARGV[1], '(' .. ARGV[1] .. '\255')) do
  found[2 * n - 1], found[2 * n] = key, call('HGET', P .. 'settings', key)
end
return found
