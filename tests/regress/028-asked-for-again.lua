-- tests/regress/028-asked-for-again.lua: a job that nobody could run began to wait anew (no_client_ms) each time that its priority changed.
local K = require "kit"

describe("a job that nobody can run", function()
  after_each(K.clean)

  it("ends by no_client_ms although its priority changes all the time", function()
    local pool = K.pool { no_client_ms = 300 }
    local job, changes = pool:submit(K.picture()), 0
    K.till("it has ended", function()
      if job.ended then return true end
      changes = changes + 1
      job:set_priority(changes)
    end)
    assert.equal("no_clients", K.ended(job).error.kind)
    assert.is_true(changes > 3)
  end)
end)
