-- The arbiter of all replicas: every operation on a circuit is one run of this
-- script, so it is atomic, and it knows one clock, that of Redis.
--
-- KEYS   1 states     HASH id -> the record of a circuit that is not plainly closed
--        2 meta       HASH epoch, version, and c:<id>: the version that closed a circuit, by whom and why
--        3 failures   ZSET event -> when, the newest of one circuit
--        4 probes     ZSET token -> end of its lease
--        5 reporters  ZSET replica -> its latest failure
--        6 tallies    HASH <width>:<slice>:g and …:b -> requests that went well and badly
-- ARGV   1 operation  2 id  3 channel  4 replica  5 newest version the caller knows
--        6 the epoch to begin if there is none  7... of the operation
-- Reply  verdict, milliseconds to wait, record as it is published (see describe)
--
-- A version is never less than the time in milliseconds nor than what the caller
-- has seen: after a failover that lost writes no version is given twice.

local states, meta, failures, probes, reporters, tallies = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local op, id, channel, replica, seen = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- Lua prints large numbers as 1.79e+12.
local function num(n) return string.format('%.0f', n) end

redis.call('HSETNX', meta, 'epoch', ARGV[6])
local epoch = redis.call('HGET', meta, 'epoch')
local before = tonumber(redis.call('HGET', meta, 'version') or '0')
local version = before
local r, closed, closing -- a circuit, the version that closed it and why

-- write stores r as it is.
local function write()
	redis.call('HSET', states, id, table.concat({ r.st, num(r.ver), num(r.due), num(r.trips), num(r.ok), r.mode, num(r.lapse), num(r.dur),
		num(r.fails), r.by, r.why, num(r.lease) }, ' '))
end

local function read(circuit)
	id = circuit
	local f = {}
	for word in string.gmatch(redis.call('HGET', meta, 'c:' .. id) or '0 - -', '%S+') do f[#f + 1] = word end
	closed, closing = tonumber(f[1]), f[3]
	r = { st = 'C', ver = closed, due = 0, trips = 0, ok = 0, mode = 'N', lapse = 0, dur = 0, fails = 0, by = f[2], why = f[3],
		lease = 0 } -- the longest that a probe of this round has
	local text = redis.call('HGET', states, id)
	if not text then return end
	f = {}
	for word in string.gmatch(text, '%S+') do f[#f + 1] = word end
	r.st, r.ver, r.due, r.trips, r.ok = f[1], tonumber(f[2]), tonumber(f[3]), tonumber(f[4]), tonumber(f[5])
	r.mode, r.lapse, r.dur, r.fails, r.by, r.why = f[6], tonumber(f[7]), tonumber(f[8]), tonumber(f[9]), f[10], f[11]
	r.lease = tonumber(f[12])
	-- The clock may have been set back: nothing lasts longer than it was told to.
	if r.st == 'O' and r.due - now > r.dur then
		r.due = now + r.dur
		write()
	end
	if r.lapse - now > r.dur and r.lapse > 0 then
		r.lapse = now + r.dur
		write()
	end
end

-- describe: epoch, version before, version now, state, version of the record, rest of the open period in ms, trips, good
-- probes, mode, rest of the order in ms (-1: for ever), failures, replica that caused it, reason, version that closed, id.
local function describe()
	local left, order = 0, -1
	if r.st == 'O' then left = math.max(0, r.due - now) end
	if r.mode ~= 'N' and r.lapse > 0 then order = math.max(0, r.lapse - now) end
	return table.concat({ epoch, num(before), num(version), r.st, num(r.ver), num(left), num(r.trips), num(r.ok), r.mode, num(order),
		num(r.fails), r.by, r.why, num(closed), id }, ' ')
end

-- prune forgets closings so long ago that no request from before can be under way.
local function prune()
	if version % 64 ~= 0 or redis.call('HLEN', meta) < 1000 then return end
	local all = redis.call('HGETALL', meta)
	for i = 1, #all, 2 do
		if string.sub(all[i], 1, 2) == 'c:' and tonumber(string.match(all[i + 1], '^%d+')) < now - 3600000 then redis.call('HDEL', meta, all[i]) end
	end
end

-- commit makes what was done to r the next version and tells everybody.
local function commit(why)
	before = version
	version = math.max(version + 1, now, seen + 1)
	r.ver, r.why, r.by = version, why, replica
	redis.call('HSET', meta, 'version', num(version))
	if r.st == 'C' then
		closed, closing = version, why
		redis.call('HSET', meta, 'c:' .. id, num(version) .. ' ' .. replica .. ' ' .. why)
		prune()
	end
	if r.st == 'C' and r.mode == 'N' then
		redis.call('HDEL', states, id)
	else
		write()
	end
	redis.call('PUBLISH', channel, describe())
end

local function forget() redis.call('DEL', failures, probes, reporters, tallies) end

local function close(why)
	r.st, r.mode, r.trips, r.ok, r.fails, r.due, r.lapse = 'C', 'N', 0, 0, 0, 0, 0
	forget()
	commit(why)
end

-- open begins an open period of base ms, doubled for every trip up to max, spread by jitter.
local function open(base, max, jitter, random, fails, why)
	r.st, r.trips, r.ok, r.fails = 'O', r.trips + 1, 0, fails
	for _ = 2, r.trips do
		if base >= max then break end
		base = math.min(2 * base, max)
	end
	r.dur = math.floor(base * (1 + jitter * (2 * random - 1)))
	r.due = now + r.dur
	forget()
	commit(why)
end

-- tally adds to the slice of the window under way and returns the window's good and bad requests. The width of the slices
-- is part of their name: replicas whose windows differ, as during a change of the configuration, count side by side.
local function tally(window, good, bad)
	local width = math.max(1, math.floor(window / 10))
	local slice = math.floor(now / width)
	local name = num(width) .. ':' .. num(slice) .. ':'
	if good > 0 then redis.call('HINCRBY', tallies, name .. 'g', good) end
	if bad > 0 then redis.call('HINCRBY', tallies, name .. 'b', bad) end
	redis.call('PEXPIRE', tallies, window + 2 * width)
	local sum = { g = 0, b = 0 }
	local all = redis.call('HGETALL', tallies)
	for i = 1, #all, 2 do
		local w, at, kind = string.match(all[i], '^(%d+):(%d+):(%a)$')
		w, at = tonumber(w), tonumber(at)
		local age = math.floor(now / w) - at
		if age < 0 or age > 10 then
			redis.call('HDEL', tallies, all[i])
		elseif w == width then
			sum[kind] = sum[kind] + tonumber(all[i + 1])
		end
	end
	return sum.g, sum.b
end

local ops = {}

-- fail counts one failure: failures, window, open, max, jitter, random, min_reporters, min_ratio, version that admitted, event, age.
function ops.fail(limit, window, base, max, jitter, random, quorum, ratio, admitted, event, age)
	if r.mode ~= 'N' or r.st ~= 'C' then return 'ignored' end
	if admitted < closed then return 'stale' end
	if age >= window then return 'old' end
	local at = now - math.max(0, age)
	local added = redis.call('ZADD', failures, 'NX', num(at), event)
	redis.call('ZREMRANGEBYSCORE', failures, '-inf', num(now - window))
	redis.call('ZREMRANGEBYSCORE', failures, '(' .. num(now), '+inf')
	redis.call('ZREMRANGEBYRANK', failures, 0, -limit - 1)
	redis.call('PEXPIRE', failures, window + 1000)
	local seen_by = 1
	if quorum > 1 then
		redis.call('ZREMRANGEBYSCORE', reporters, '(' .. num(now), '+inf') -- first: GT would keep what is of the future
		if added == 1 then redis.call('ZADD', reporters, 'GT', num(at), replica) end
		redis.call('ZREMRANGEBYSCORE', reporters, '-inf', num(now - window))
		redis.call('PEXPIRE', reporters, window + 1000)
		seen_by = redis.call('ZCARD', reporters)
	end
	local share = 1
	if ratio > 0 then
		local good, bad = tally(window, 0, added)
		share = bad / math.max(1, good + bad)
	end
	local count = redis.call('ZCARD', failures)
	if count < limit or seen_by < quorum or share + 1e-9 < ratio then return 'counted' end
	open(base, max, jitter, random, count, 'failures')
	return 'opened'
end

-- count adds requests that went well: window, how many.
function ops.count(window, good)
	if r.mode == 'N' and r.st == 'C' then tally(window, good, 0) end
	return 'counted'
end

-- acquire asks for a probe's lease: probes, lease, token.
function ops.acquire(limit, lease, token)
	if r.mode == 'O' then return 'denied', -1 end
	if r.mode == 'C' or r.st == 'C' then return 'closed' end
	if r.st == 'O' then
		if now < r.due then return 'denied', r.due - now end
		r.st, r.ok, r.lease = 'H', 0, 0
		redis.call('DEL', probes)
		commit('open_period_over')
	end
	redis.call('ZREMRANGEBYSCORE', probes, '-inf', num(now))
	-- The clock may have been set back: no lease lasts longer than the longest that was given.
	for _, lost in ipairs(redis.call('ZRANGEBYSCORE', probes, '(' .. num(now + r.lease), '+inf')) do
		redis.call('ZADD', probes, num(now + r.lease), lost)
	end
	if redis.call('ZSCORE', probes, token) then return 'granted' end
	if redis.call('ZCARD', probes) >= limit then
		return 'denied', tonumber(redis.call('ZRANGE', probes, 0, 0, 'WITHSCORES')[2]) - now
	end
	redis.call('ZADD', probes, num(now + lease), token)
	if lease > r.lease then
		r.lease = lease
		write()
	end
	redis.call('PEXPIRE', probes, r.lease + 1000)
	return 'granted'
end

-- result tells how a probe went: token, good|bad|none, need, open, max, jitter, random. Only the holder of a live lease decides.
function ops.result(token, outcome, need, base, max, jitter, random)
	local ends = tonumber(redis.call('ZSCORE', probes, token) or '0')
	redis.call('ZREM', probes, token)
	if r.mode ~= 'N' or r.st ~= 'H' or now >= ends then return 'stale' end
	if outcome == 'bad' then
		open(base, max, jitter, random, 0, 'probe_failed')
		return 'opened'
	end
	if outcome == 'good' then
		r.ok = r.ok + 1
		if r.ok >= need then
			close('probe_succeeded')
			return 'closed'
		end
	end
	commit('place_free') -- so that nobody goes on waiting for the lease to end
	return 'released'
end

-- settled tells whether somebody has closed the circuit or given it an order since: a replica that tells of what Redis has
-- lost gives the version up to which it knew the circuit, and 0 for a decision of its own. Older gateways give none.
local function settled(known)
	return (known or 0) > 0 and closed > known and closing ~= 'forgotten' and closing ~= 'order_over'
end

-- force obeys an operator: mode O, C or N, how long in ms, 0 for ever, why: forced, or forced:_ and what the operator says
-- in one word, and the version of settled, or of the order to lift. Gateways that know nothing of the operator's word don't
-- give it, and keep it as it is.
function ops.force(mode, ttl, why, known)
	why = why or 'forced'
	if mode == 'N' then
		-- The lift of an order that Redis has lost is a change, for those that will yet tell of it.
		if r.mode == 'N' and (r.st ~= 'C' or (known or 0) <= closed) then return 'ignored' end
		close('forced')
		return 'closed'
	end
	if settled(known) then return 'ignored' end
	if mode == r.mode and ttl == 0 and r.lapse == 0 and (why == 'forced' or why == r.why) then return 'ignored' end
	r.st, r.mode, r.trips, r.ok, r.fails, r.due, r.lapse = 'C', mode, 0, 0, 0, 0, 0
	if ttl > 0 then r.lapse, r.dur = now + ttl, ttl end
	forget()
	commit(why)
	return 'forced'
end

-- reset forgets everything and closes.
function ops.reset()
	close('reset')
	return 'closed'
end

-- lapse: the order of a circuit has been lifted above if its time was over.
function ops.lapse() return 'ignored' end

-- merge opens for a replica that opened on its own while Redis was away or knows of an open period that Redis lost: rest in ms, open, trips,
-- and the version of settled.
function ops.merge(left, base, trips, known)
	if r.mode ~= 'N' or r.st == 'H' or settled(known) then return 'ignored' end
	if r.st == 'O' and now + left <= r.due + 100 then return 'ignored' end -- they all come with nearly the same rest
	if r.st == 'C' then
		r.trips, r.fails = math.max(1, trips), 0
		forget()
	end
	r.st, r.due = 'O', now + left
	r.dur = math.max(base, left, 10000) -- one that has only heard of the circuit does not know its settings
	commit('merged')
	return 'opened'
end

-- abandoned tells whether nobody has asked for the circuit in ten open periods.
local function abandoned()
	if r.mode ~= 'N' or now <= r.due + 10 * r.dur then return false end
	local leases = string.gsub(states, 'states$', 'probes:') .. id -- in the same slot as all our keys
	return r.st == 'O' or redis.call('ZCOUNT', leases, '(' .. num(now), '+inf') == 0
end

-- sync returns everything. Circuits that are abandoned are closed, unless Redis has lost what the caller knows, who would
-- take the new versions of that for later ones than his.
local function sync()
	local reply, whole = { 'sync', '0', '' }, seen <= version
	local all = redis.call('HGETALL', states)
	for i = 1, #all, 2 do
		read(all[i])
		if whole and abandoned() then
			close('forgotten')
		else
			reply[#reply + 1] = describe()
		end
	end
	reply[3] = epoch .. ' ' .. num(version)
	all = redis.call('HGETALL', meta)
	for i = 1, #all, 2 do
		if string.sub(all[i], 1, 2) == 'c:' then
			reply[#reply + 1] = 'c ' .. all[i + 1] .. ' ' .. string.sub(all[i], 3)
		end
	end
	return reply
end

if op == 'sync' then return sync() end

read(id)
if r.mode ~= 'N' and r.lapse > 0 and now >= r.lapse then close('order_over') end
local args = {}
for i = 7, #ARGV do args[#args + 1] = tonumber(ARGV[i]) or ARGV[i] end
local verdict, wait = ops[op](unpack(args))
return { verdict, num(wait or 0), describe() }
