-- What wrk sends and counts for bench/wrk.py, which says when to stop counting; wrk itself ends later, when it is told to.
-- Arguments: the parts of a request (bench.requests.Shape), the mark of a good reply and how often it stands there, whether
-- each mark counts ("items") or the whole reply ("reply"), a seed, and the time to stop at, in seconds since 1970.

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds; long nanos; } moment; int clock_gettime(int clock, moment *found);")
local found = ffi.new("moment")

local function now()
    ffi.C.clock_gettime(0, found)
    return tonumber(found.seconds) + tonumber(found.nanos) * 1e-9
end

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(given)
    before, item, items, after, choices = given[1], given[2], tonumber(given[3]), given[4], tonumber(given[5])
    mark, marks, by_reply = given[6], tonumber(given[7]), given[8] == "reply"
    math.randomseed(tonumber(given[9]))
    stop_at = tonumber(given[10])
    number, sent, answered, counted, acknowledged, refused = 0, 0, 0, 0, 0, 0
    begun_at, refusal, rehearsed, told = 0, "", false, false
end

local function one()
    number = number + 1
    return string.format(item, math.random(0, choices - 1), number)
end

local function made()
    if items == 0 then return before .. after end
    if items == 1 then return before .. one() .. after end
    local parts = {}
    for place = 1, items do parts[place] = one() end
    return before .. table.concat(parts, ",") .. after
end

-- When all is answered and nothing more will be sent, whoever started wrk is told.
local function tell_if_done()
    if answered == sent and not told then
        told = true
        io.write("done\n")
        io.flush()
    end
end

function request()
    if not rehearsed then -- wrk looks at one request before it begins, and does not send it
        rehearsed = true
        return made()
    end
    local at = now()
    if at >= stop_at then
        tell_if_done()
        return "" -- nothing is sent
    end
    if sent == 0 then begun_at = at end
    sent = sent + 1
    return made()
end

function response(status, headers, body)
    answered = answered + 1
    local seen, place = 0, 1
    while true do
        local first, last = string.find(body, mark, place, true)
        if first == nil then break end
        seen, place = seen + 1, last + 1
    end
    local good, wanted = seen, marks
    if by_reply then good, wanted = seen == marks and 1 or 0, 1 end
    acknowledged = acknowledged + good
    if good ~= wanted then
        refused = refused + wanted - good
        if refusal == "" then refusal = status .. " " .. string.sub(body, -500) end
    end
    if now() < stop_at then
        counted = counted + good
    else
        tell_if_done()
    end
end

function done(summary, latency, requests)
    local thread = threads[1]
    io.write(string.format("p50 %.0f\np99 %.0f\n", latency:percentile(50), latency:percentile(99)))
    for _, name in ipairs({ "begun_at", "counted", "acknowledged", "refused", "refusal" }) do
        local value = thread:get(name)
        io.write(name, " ", type(value) == "number" and string.format("%.6f", value) or value, "\n")
    end
end
