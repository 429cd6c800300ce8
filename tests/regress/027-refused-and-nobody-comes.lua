-- tests/regress/027-refused-and-nobody-comes.lua: a job whose value one client refused waits for the other one, which is away (040); when
-- that does not come back the job ends by no_client_ms, and tells of both.
local K = require "kit"
local moonpool = require "moonpool"
local scripted = K.scripted(it, pending)

describe("a value that one client refuses, while the other is away and stays away", function()
  after_each(K.clean)

  scripted("ends the job by no_client_ms", function()
    local _, probe = K.pool_of { K.sim() }
    local without, n = moonpool.json.encode(assert(probe:object_info())):gsub('"euler",', "", 1)
    assert.equal(1, n)
    local a, b = K.sim { catalogue = without }, K.server()
    local pool, _, cb = K.pool_of({ { a, { name = "a" } }, { b, { name = "b" } } }, { no_client_ms = 200 })
    b:set { prefix = "/elsewhere" }
    b:drop()
    K.till("it is away", function() return not cb.online end)
    local r = K.ended(pool:submit(K.picture()))
    assert.same({ "failed", "no_clients" }, { r.status, r.error.kind })
    assert.matches("a: refused it; b: ", r.error.message)
  end)
end)
