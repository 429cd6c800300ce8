-- tests/regress/016-outputs-as-a-list.lua: a history entry whose outputs are a list ended the process: items of a list have no name.
local K = require "kit"
local scripted = K.scripted(it, pending)

describe("a history entry with outputs that are no object", function()
  after_each(K.clean)

  for outputs, what in K.sorted { ['[1, 2, {"a": 1}]'] = "a list", ["7"] = "a number", ['"x"'] = "a text", ["null"] = "null", ['{"9": [1, 2], "10": null}'] = "lists and nothing" } do
    scripted(("ends its job without outputs that make sense (%s)"):format(what), function()
      local entry = '{"prompt": [1, "{ID}", {}, {}, []], "outputs": %s, "status": {"status_str": "success", "messages": [7, [], ["execution_start", [1, 2]]]}}'
      local s = K.server { ws = 404, raw = { ["GET /history/"] = '{"{ID}": ' .. entry:format(outputs) .. "}" } }
      local pool = K.pool { poll_ms = 50 }
      pool:add_client(s.url)
      local r = K.completed(pool:submit(K.picture()))
      assert.equal(0, #r.files)
    end)
  end
end)
