-- The requests of wrk and the counts of their responses, for bench/wrk.py, which stops wrk when all is answered.
-- Arguments: the parts of a request (bench.workload.RequestTemplate), the marker of a success and how often a complete
-- response has it, what counts ("items": each marker, "response": a complete response), a random seed, and the Unix time
-- at which to stop sending.

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds; long nanos; } timespec; int clock_gettime(int clock, timespec *time);")
local time = ffi.new("timespec")

local function now()
    ffi.C.clock_gettime(0, time)
    return tonumber(time.seconds) + tonumber(time.nanos) * 1e-9
end

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(arguments)
    before, item, items, after = arguments[1], arguments[2], tonumber(arguments[3]), arguments[4]
    choices, marker, markers = tonumber(arguments[5]), arguments[6], tonumber(arguments[7])
    counts_responses = arguments[8] == "response"
    math.randomseed(tonumber(arguments[9]))
    stop_at = tonumber(arguments[10])
    number, sent, answered, counted, acknowledged, refused = 0, 0, 0, 0, 0, 0
    begun_at, refusal, is_validated, is_done = 0, "", false, false
end

local function next_item()
    number = number + 1
    return string.format(item, math.random(0, choices - 1), number)
end

local function next_request()
    local parts = {}
    for place = 1, items do parts[place] = next_item() end
    return before .. table.concat(parts, ",") .. after
end

-- Reports once that everything is answered and nothing more will be sent.
local function report_if_done()
    if answered == sent and not is_done then
        is_done = true
        io.write("done\n")
        io.flush()
    end
end

function request()
    if not is_validated then -- wrk validates one request before it starts, and does not send it
        is_validated = true
        return next_request()
    end
    local at = now()
    if at >= stop_at then
        report_if_done()
        return "" -- nothing is sent
    end
    if sent == 0 then begun_at = at end
    sent = sent + 1
    return next_request()
end

function response(status, headers, body)
    answered = answered + 1
    local found, place = 0, 1
    while true do
        local first, last = string.find(body, marker, place, true)
        if first == nil then break end
        found, place = found + 1, last + 1
    end
    local successes, expected = found, markers
    if counts_responses then successes, expected = found == markers and 1 or 0, 1 end
    acknowledged = acknowledged + successes
    if successes ~= expected then
        refused = refused + expected - successes
        if refusal == "" then refusal = status .. " " .. string.sub(body, -500) end
    end
    if now() < stop_at then
        counted = counted + successes
    else
        report_if_done()
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
