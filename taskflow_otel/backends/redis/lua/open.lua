-- ARGV: version to create. Returns the version found, or the one just created.
local found = call('GET', P .. 'schema')
if found then return found end
call('SET', P .. 'schema', ARGV[1])
return ARGV[1]
