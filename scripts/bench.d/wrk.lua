-- Gives wrk its request (method and body from the environment) and prints the figures on one line, exact and not rounded.
-- The request is made once: no Lua runs for each request or answer.
local body_bytes = tonumber(os.getenv("BENCH_UPLOAD_BYTES") or "0")
if body_bytes > 0 then
  wrk.method = "POST"
  wrk.body = string.rep("rondo uploads.\r\n", body_bytes / 16)
end

function done(summary, latency, _requests)
  local e = summary.errors
  io.write(string.format(
    'BENCH {"requests": %d, "bytes": %d, "us": %d, "p50_us": %d, "p99_us": %d, ' ..
    '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
    summary.requests, summary.bytes, summary.duration, latency:percentile(50.0), latency:percentile(99.0),
    e.connect, e.read, e.write, e.status, e.timeout))
end
