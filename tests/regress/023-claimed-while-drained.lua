-- tests/regress/023-claimed-while-drained.lua: a client that was being drained went on claiming its workflows, and jobs of these failed
-- because nobody else was asked.
local K = require "kit"
local moonpool = require "moonpool"

describe("jobs of a workflow whose only client is being drained", function()
  after_each(K.clean)

  for when, early in K.sorted { ["submitted before"] = true, ["submitted after"] = false } do
    it("go to others: " .. when, function()
      local mine = { K.sim { step_ms = 30 }, { name = "a", affinity = { K.picture() }, slots = 1 } }
      local pool, ca = K.pool_of({ mine, { K.sim(), { name = "b" } } }, { no_client_ms = 500 })
      local first, second = pool:submit(K.endless()), nil
      K.till("it runs", function() return first.status == "running" end)
      if early then second = pool:submit(K.picture(2)) end
      moonpool.spawn(function() pool:remove_client(ca, { drain = true }) end)
      if not early then second = pool:submit(K.picture(2)) end
      assert.equal("b", K.completed(second).client)
      assert.same({ "running", "a" }, { first.status, first.client })
    end)
  end
end)
