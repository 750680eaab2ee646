-- ARGV: prefix. Returns the greatest name used once with this prefix and the id of its task, or nothing.
-- No byte of UTF-8 is 255.
local names = call('ZREVRANGEBYLEX', P .. 'once_names', '(' .. ARGV[1] .. '\255', '[' .. ARGV[1], 'LIMIT', 0, 1)
if not names[1] then return {} end
return {names[1], call('HGET', P .. 'once', names[1])}
