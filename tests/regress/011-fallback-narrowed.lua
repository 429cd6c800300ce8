-- tests/regress/011-fallback-narrowed.lua: affinity_fallback_ms did nothing for a job that excludes a client, has variants, or
-- has failed once.
local K = require "kit"

describe("affinity_fallback_ms", function()
  after_each(K.clean)

  it("holds for jobs that are narrowed further", function()
    local a, b, wf = K.sim(), K.sim(), K.picture(1)
    local pool = K.pool { affinity_fallback_ms = 50, no_client_ms = 20000 }
    pool:add_client(a.url, { name = "a", affinity = { wf } })
    pool:add_client(b.url, { name = "b" })
    assert(pool:init())
    K.till("both are there", function() return pool:stats().online == 2 end)
    pool:client "a":pause()
    assert.equal("b", K.completed(pool:submit(wf, { excluded_clients = { "somebody else" } })).client)
    assert.equal("b", K.completed(pool:submit_variants { wf, wf }).client)
  end)
end)
