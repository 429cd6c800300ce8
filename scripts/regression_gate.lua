-- scripts/regression_gate.lua: a gate for CI: runs a workflow a number of times, and fails when it has become slower than in the
-- log of the release before.
--   moonpool scripts/regression_gate.lua BASELINE.jsonl [RUNS] [SHARE]
-- Without a baseline the log of this run becomes one. Exit codes: 1 slower, 2 nothing could be tested.
local moonpool = require "moonpool"

local baseline, runs, share = arg[1], math.tointeger(tonumber(arg[2] or 30)), tonumber(arg[3] or 0.05)
if not baseline or not runs or runs < 1 or not share then
  io.stderr:write "usage: regression_gate.lua BASELINE.jsonl [RUNS] [SHARE]\n"
  os.exit(2, true)
end
local there = io.open(baseline)
if there then there:close() end
local log = there and baseline .. ".now" or baseline
os.remove(log)

do
  local pool <close> = moonpool.pool { profile_log = log, profile_label = there and "now" or "baseline" }
  local speed = tonumber(os.getenv "GATE_SPEED" or 40)   -- of the simulated server, when there is no other
  local sim = assert(moonpool.config.add_to(pool)) == 0 and moonpool.sim { speed = speed } or nil
  if sim then pool:add_client(sim.url, { name = "gate" }) end
  local base = assert(moonpool.workflow.load "scripts/workflows/text_to_image.json")
  for i = 1, runs do assert(pool:submit(base:clone():input("3", "seed", i))) end
  for result in pool:results() do assert(result.status == "completed", result.error and result.error.message) end
end
if not there then
  print(("%d runs are the baseline now: %s"):format(runs, baseline))
  return
end
local before, now = assert(moonpool.profiles.load(baseline)), assert(moonpool.profiles.load(log))
local slower, tested = 0, 0
for _, row in ipairs(before:compare(now).rows) do
  if row.verdict ~= "too few" then tested = tested + 1 end
  if row.verdict == "slower" and row.change >= share then
    slower = slower + 1
    print(("%s is %.0f %% slower (%.1f ms, was %.1f ms)"):format(row.type or "the workflow", row.change * 100, row.medianB, row.medianA))
  end
end
if tested == 0 then
  print(("nothing could be tested: %d runs in the baseline, %d now"):format(#before, #now))
  os.exit(2, true)
end
print(slower == 0 and "nothing is slower" or ("%d rows are slower"):format(slower))
os.exit(slower == 0 and 0 or 1, true)
