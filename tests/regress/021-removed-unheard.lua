-- tests/regress/021-removed-unheard.lua: of a client that was removed before it was connected nobody was told; who waited for
-- its connection waited for ever.
local K = require "kit"
local moonpool = require "moonpool"

describe("a client that is removed while it connects", function()
  after_each(K.clean)

  it("is not waited for by init", function()
    local s = K.sim()
    s:stall(3600000)
    local pool = K.pool { connect_timeout_ms = 3600000 }
    local c = pool:add_client(s.url)
    local ok, err
    local task = moonpool.spawn(function() ok, err = pool:init() end)
    K.turns()
    assert.equal("connecting", c.state)
    c:remove()
    assert.is_nil((task:wait(30000)))
    assert.same({ nil, "no_clients" }, { ok, err and err.kind })
  end)
end)
