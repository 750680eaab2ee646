-- ARGV: id. Returns the text of the operation, if it is stored.
return call('HGET', P .. 'operation:' .. ARGV[1], 'doc')
