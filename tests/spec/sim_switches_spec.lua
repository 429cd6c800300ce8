-- tests/spec/sim_switches_spec.lua: what a simulated server is told to do, by its options and by its methods.
local S = require "simkit"
local K = require "kit"
local moonpool = require "moonpool"
local json = moonpool.json
local server, request, get, fetch, connect, submit, run = S.server, S.request, S.get, S.fetch, S.connect, S.submit, S.run
local next_message, read_until, is_end, is_executing, short, shorts, only = S.next_message, S.read_until, S.is_end, S.is_executing, S.short, S.shorts, S.only
local small, endless, endless_costs, occupy, interrupt, history_of = S.small, S.endless, S.endless_costs, S.occupy, S.interrupt, S.history_of

after_each(K.clean)

local function is(kind) return function(m) return m.type == kind end end
local NEVER = 1e9                                -- ms: later than any spec ends

-- ---- the end of a job ------------------------------------------------------------------------------------------------------

describe("sim: history_ms", function()
  it("after execution_success the job still runs, and is not in the history", function()
    local sim <close> = server { history_ms = NEVER }
    local ws <close> = connect(sim, "a")
    local id = submit(sim, small(), "a")
    read_until(ws, is "execution_success")
    assert.are.equal("{}", get(sim, "/history/" .. id).body)
    assert.are.equal("{}", get(sim, "/history").body)
    assert.are.equal(id, fetch(sim, "/queue").queue_running[1][2])
    assert.are.equal(1, fetch(sim, "/prompt").exec_info.queue_remaining)
    assert.are.equal("in_progress", fetch(sim, "/api/jobs/" .. id).status)
    interrupt(sim, id)                             -- which is too late
    assert.are.same({}, shorts(S.everything(ws)))
  end)

  it("so it is after a failure and an interrupt", function()
    local sim <close> = server { history_ms = NEVER }
    local ws <close> = connect(sim, "a")
    sim:fail()
    local id = submit(sim, small(), "a")
    read_until(ws, is "execution_error")
    assert.are.equal("{}", get(sim, "/history/" .. id).body)
    local other <close> = server { history_ms = NEVER, costs = endless_costs }
    local ear <close> = connect(other, "a")
    local stopped = occupy(other, ear, "a")
    interrupt(other, stopped)
    read_until(ear, is "execution_interrupted")
    assert.are.equal("{}", get(other, "/history/" .. stopped).body)
  end)

  it("then it is there when status and the end are told, and the next one begins", function()
    local sim <close> = server { history_ms = 5 }
    local ws <close> = connect(sim, "a")
    local one, two = submit(sim, small(1), "a"), submit(sim, small(2), "a")
    local list = shorts(read_until(ws, is_end(one)))
    assert.are.same({ "execution_success", "status 1", "executing null" }, { table.unpack(list, #list - 2) })
    assert.are.equal("success", history_of(sim, one).status.status_str)
    read_until(ws, is_end(two))
  end)

  for _, version in ipairs { "0.18.1", "0.3.75", "0.3.64", "2024-10" } do
    it("a pool gets its results from such a " .. version, function()
      local sim = K.sim { version = version, history_ms = 20, overhead_ms = 5 }
      local pool, jobs = K.pool_of { sim }, {}
      for i = 1, 4 do jobs[i] = pool:submit(K.picture(i)) end
      for i = 1, 4 do assert.are.equal(1, #K.completed(jobs[i]).images) end
      assert.are.equal(4, sim:record().prompts)
    end)
  end
end)
