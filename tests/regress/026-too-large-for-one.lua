-- tests/regress/026-too-large-for-one.lua: one workflow that was larger than a server accepts (status 413) blocked all of its hash there,
-- and jobs that were small enough failed with it.
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("a workflow that is too large for a server", function()
  after_each(K.clean)

  scripted("fails alone", function()
    local s = K.server { status = { ["/prompt"] = { 413 } } }
    local pool, c = K.pool_of { s }
    pool:pause()
    local jobs = {}
    for i = 1, 4 do jobs[i] = pool:submit(K.picture(i)) end
    pool:resume()
    local r = K.ended(jobs[1])
    assert.same({ "failed", "client_incompatible" }, { r.status, r.error.kind })
    for i = 2, 4 do K.completed(jobs[i]) end
    K.completed(pool:submit(K.picture(5)))
    assert.equal(5, #s:prompts())
    assert.same({}, c.blocked)
  end)

  scripted("goes to one that accepts it", function()
    local s = K.server { status = { ["/prompt"] = { 413 } } }
    local pool = K.pool_of({ { s, { name = "a", priority = 5 } }, { K.sim(), { name = "b" } } }, { policy = K.by_priority })
    local r = K.completed(pool:submit(K.picture()))
    assert.same({ "b", 1 }, { r.client, r.attempts })
  end)
end)
