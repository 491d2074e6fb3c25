-- wrk: the request of a job, and the result as one line.
-- Arguments after "--": method, bytes of the body, number of paths (/0, /1, ... in turn; 0 for the path of the URL).

function init(args)
    wrk.method = args[1]
    local bytes, paths = tonumber(args[2]), tonumber(args[3])
    if bytes > 0 then
        wrk.body = string.rep("x", bytes)
    end
    if paths > 0 then
        local requests, at = {}, 0
        for i = 1, paths do
            requests[i] = wrk.format(nil, "/" .. (i - 1))
        end
        request = function()
            at = at % paths + 1
            return requests[at]
        end
    end
end

function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("bench: %d %d %d\n", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.status + e.timeout))
end
