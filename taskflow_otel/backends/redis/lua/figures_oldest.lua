-- ARGV: span. Returns the oldest slot, empty without any.
return call('ZRANGE', P .. 'figures:' .. ARGV[1], 0, 0)[1] or ''
