-- ARGV: status, position, limit. Returns the rows of tasks with this status, the newest first.
local rows = {}
for n, id in ipairs(call('ZREVRANGE', index_key('', ARGV[1]), ARGV[2], ARGV[2] + ARGV[3] - 1)) do rows[n] = row(id) end
return rows
