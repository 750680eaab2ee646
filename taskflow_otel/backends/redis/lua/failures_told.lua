-- All failures of the first version have their fingerprints now.
if call('GET', P .. 'schema') == '1' then call('SET', P .. 'schema', '2') end
return 1
