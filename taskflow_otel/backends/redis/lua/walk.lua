-- ARGV: mode (page or count), id of the last task of the previous page (or ''), its time in case it is gone, number of
-- candidates to read, rows wanted, then JSON: statuses, dimensions, and the remaining conditions.
-- Returns {candidates seen, id of the last, whether the walk is at its end, rows or counts}.
local cursor, budget, wanted = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local statuses, dims, wants = cjson.decode(ARGV[6]), cjson.decode(ARGV[7]), cjson.decode(ARGV[8])

local drive, size
for _, dim in ipairs(dims) do
  local members = 0
  for _, status in ipairs(statuses) do members = members + call('ZCARD', index_key(dim, status)) end
  if not size or members < size then drive, size = dim, members end
end

-- How many members of an index are not older than the cursor. Members of the same time are ordered by id; a binary
-- search finds the place among them.
local function rank_after(key, created)
  local low = call('ZCOUNT', key, '(' .. created, '+inf')
  local high = low + call('ZCOUNT', key, created, created)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if call('ZREVRANGE', key, middle, middle)[1] >= cursor then low = middle + 1 else high = middle end
  end
  return low
end

local created, gone
if cursor ~= '' then
  local status = call('HGET', task_key(cursor), 'status')
  created = status and call('ZSCORE', index_key('', status), cursor)
  if not created then created, gone = ARGV[3], true end
end

local streams = {}
for _, status in ipairs(statuses) do
  local key = index_key(drive, status)
  local first = 0
  if wants['until'] then first = call('ZCOUNT', key, wants['until'], '+inf') end
  if created then first = math.max(first, rank_after(key, created)) end
  local stop = first + budget - 1
  if wants.since then stop = math.min(stop, call('ZCOUNT', key, wants.since, '+inf') - 1) end
  if stop >= first then
    local list = call('ZREVRANGE', key, first, stop, 'WITHSCORES')
    if list[1] then
      streams[#streams + 1] = {status = status, list = list, at = 1, id = list[1], time = tonumber(list[2])}
    end
  end
end

-- Takes the newest of the first tasks of the streams.
local function advance()
  local best
  for _, stream in ipairs(streams) do
    if stream.id and (not best or stream.time > best.time or (stream.time == best.time and stream.id > best.id)) then
      best = stream
    end
  end
  if not best then return nil end
  local id = best.id
  best.at = best.at + 2
  best.id, best.time = best.list[best.at], tonumber(best.list[best.at + 1])
  return id, best.status
end

-- The text begins with the name and NUL; the type of the error is a part of the document alone.
local function has_error(id, text)
  local name_end = string.find(text, '\0', 1, true)
  if string.find(text, wants.error, name_end + 1, true) then return true end
  local readable, doc = pcall(cjson.decode, call('HGET', task_key(id), 'doc'))
  local kind = readable and doc[tonumber(wants.error_type_at)]
  return type(kind) == 'string' and string.find(string.lower(kind), wants.error, 1, true) ~= nil
end

local function matches(id, status)
  -- If the cursor's task is gone, its time is known only to the millisecond.
  if gone and id >= cursor then return false end
  for _, dim in ipairs(dims) do
    if dim ~= drive and not call('ZSCORE', index_key(dim, status), id) then return false end
  end
  if wants.ended_since or wants.ended_until then
    local ended = call('ZSCORE', P .. 'finished', id)
    if not ended then return false end
    ended = tonumber(ended)
    if wants.ended_since and ended < tonumber(wants.ended_since) then return false end
    if wants.ended_until and ended >= tonumber(wants.ended_until) then return false end
  end
  if wants.min_duration or wants.max_duration then
    local duration = not LIVE[status] and tonumber(call('HGET', task_key(id), 'duration') or nil)
    if not duration then return false end
    if wants.min_duration and duration < tonumber(wants.min_duration) then return false end
    if wants.max_duration and duration >= tonumber(wants.max_duration) then return false end
  end
  if not (wants.q or wants.prefix or wants.error) then return true end
  local text = call('HGET', task_key(id), 'search')
  if wants.prefix and string.sub(text, 1, #wants.prefix) ~= wants.prefix then return false end
  if wants.q and not (string.find(id, wants.q, 1, true) or string.find(text, wants.q, 1, true)) then return false end
  return not wants.error or has_error(id, text)
end

local function count(sums, id, status)
  local sum = sums[status] or {status, 0, 0, 0}
  sums[status] = sum
  sum[2] = sum[2] + 1
  local duration = not LIVE[status] and call('HGET', task_key(id), 'duration')
  if duration then
    sum[3] = sum[3] + tonumber(duration)
    sum[4] = sum[4] + 1
  end
end

local seen, last, done, out, sums = 0, '', 0, {}, {}
while seen < budget and #out < wanted do
  local id, status = advance()
  if not id then
    done = 1
    break
  end
  seen, last = seen + 1, id
  if matches(id, status) then
    if ARGV[1] == 'page' then out[#out + 1] = row(id) else count(sums, id, status) end
  end
end
for _, sum in pairs(sums) do
  sum[3] = string.format('%.0f', sum[3])
  out[#out + 1] = sum
end
return {seen, last, done, out}
