-- The HTTP server under a sim, byte by byte: what a peer may send, in whatever pieces it comes.
local H = require "helper"

local python = os.execute "python3 -c '' >/dev/null 2>&1"
local stop, port

local function raw(...)
  local path = H.folder "raw" .. "/steps"
  H.write(path, table.concat({ ... }, "\n"))
  return (H.run(("python3 tests/spec/raw.py %s < %s"):format(port, path)))
end

local PROMPT = "GET /prompt HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
local IDLE = '200 {"exec_info": {"queue_remaining": 0}}\n'
local NO_PROMPT = '400 {"error": {"type": "no_prompt"'

if not python then
  it("the HTTP server", function() pending "python3 is needed to send bytes as they are" end)
  return
end

describe("the HTTP server of a sim", function()
  setup(function()
    local urls
    urls, stop = H.servers(1)
    port = urls[1]:match ":(%d+)$"
  end)
  teardown(function() stop() end)

  it("answers what comes on one connection in its order, also what was sent ahead", function()
    assert.equal(IDLE .. "404 404: Not Found\n" .. IDLE, raw("> " .. PROMPT .. "GET /nowhere HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" .. PROMPT, "=", "=", "="))
  end)

  it("sees a path as it was sent", function()
    assert.equal("404 404: Not Found\n404 404: Not Found\n" .. IDLE, raw("> GET //prompt HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nGET /api//prompt HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" .. PROMPT, "=", "=", "="))
    assert.equal("200 {}\n", raw("> GET /object_info/a+b HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n", "="))
  end)

  it("waits for a head that comes in pieces, and for the rest of a body", function()
    assert.equal(IDLE, raw("> GET /pro", "?", "> mpt HTTP/1.1\\r\\nHo", "?", "> st: x\\r\\n\\r", "?", "> \\n", "="))
    assert.matches(NO_PROMPT, raw("> POST /prompt HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 2\\r\\n\\r\\n{", "?", "> }" .. PROMPT, "=", "="), 1, true)
  end)

  it("takes a body in chunks, in whatever pieces", function()
    local head = "> POST /prompt HTTP/1.1\\r\\nHost: x\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
    assert.matches(NO_PROMPT .. ".*\n" .. IDLE:gsub("%p", "%%%0"), raw(head .. "1;ext=1\\r\\n{\\r\\n1\\r\\n}\\r\\n0\\r\\n\\r\\n" .. PROMPT, "=", "="))
    assert.matches(NO_PROMPT, raw(head .. "1", "?", "> \\r\\n{", "?", "> \\r\\n01\\r\\n}\\r", "?", "> \\n0\\r\\nTrailer: 1\\r\\n", "?", "> \\r\\n", "="), 1, true)
    for _, bad in ipairs { "x\\r\\n", ";x\\r\\n", "2\\r\\n{}JUNK\\r\\n0\\r\\n\\r\\n", "fffffffffffffffff\\r\\n" } do assert.equal("400 Bad Request\nclosed\n", raw(head .. bad, "=", "="), bad) end
  end)

  it("says when to go on, and ends the connection when it was asked to", function()
    assert.matches("^HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400", raw("> POST /prompt HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 2\\r\\nExpect: 100-continue\\r\\nConnection: close\\r\\n\\r\\n", "?", "> {}", "$"))
    assert.matches("^HTTP/1.1 200.*close.*queue_remaining", raw("> GET /prompt HTTP/1.0\\r\\n\\r\\n", "$"))
    assert.equal(IDLE .. IDLE, raw("> GET /prompt HTTP/1.0\\r\\nConnection: keep-alive\\r\\n\\r\\n" .. PROMPT, "=", "="))
  end)

  it("answers 400 to what is no request, or could be read in two ways, and hangs up", function()
    local post = "POST /prompt HTTP/1.1\\r\\nHost: x\\r\\n%s\\r\\n\\r\\n{}" .. PROMPT
    for _, bad in ipairs { "nonsense\\r\\n\\r\\n", "GET /prompt\\r\\n\\r\\n", "GET prompt HTTP/1.1\\r\\n\\r\\n", "GET /prompt HTTP/2.0\\r\\n\\r\\n", "GET /prompt HTTP/1.1\\r\\nno colon\\r\\n\\r\\n",
      "GET /a\\x00b HTTP/1.1\\r\\n\\r\\n", ("\\x00"):rep(10000) .. "\\r\\n\\r\\n", "GET /" .. ("a"):rep(17000) .. " HTTP/1.1\\r\\n\\r\\n", "G\\tT /prompt HTTP/1.1\\r\\n\\r\\n",
      post:format "Content-Length: -1", post:format "Content-Length : 2", post:format "Content-Length: 2\\r\\nContent-Length: 0", post:format "Transfer-Encoding: gzip, chunked",
      post:format "Transfer-Encoding: chunked\\r\\nTransfer-Encoding: identity", post:format "Transfer-Encoding: chunked\\r\\nContent-Length: 2", post:format "\\rX: y\\r\\nContent-Length: 2",
      post:format " folded: 1" } do
      assert.equal("400 Bad Request\nclosed\n", raw("> " .. bad, "=", "="), bad:sub(1, 90))
    end
    assert.equal('400 {"error": {"type": "no_prompt"', raw("> " .. post:format "Content-Length: 2", "="):sub(1, 34))
    assert.matches("^400 {[^\n]*\n400 Bad Request\nclosed\n$", raw("> POST /prompt HTTP/1.1\\r\\nContent-Length: 2\\r\\n\\r\\n{}GET /" .. ("a"):rep(17000), "=", "=", "="))
  end)

  it("takes what a proxy would be asked, and an empty line before a request", function()
    assert.equal(IDLE .. IDLE, raw("> GET http://x/prompt HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\\r\\n" .. PROMPT, "=", "="))
  end)

  it("sends a long reply whole, also when more than one request had come, or the peer sends no more", function()
    local dir, view = H.folder "long", "GET /view?filename=long.png&type=input HTTP/1.0\\r\\n\\r\\n"
    H.write(dir .. "/long.png", ("x"):rep(3000000))
    H.run(("curl -s -F image=@%s/long.png http://127.0.0.1:%s/upload/image"):format(dir, port))
    for _, more in ipairs { "> " .. view, "> " .. view .. ("GET / HTTP/1.1\\r\\n\\r\\n"):rep(100), "> " .. view .. "\n!" } do
      local size = #raw(more, "$")
      assert.is_true(size > 3000000 and size < 3001000, size .. " bytes")
    end
    assert.equal(IDLE .. IDLE .. IDLE, raw("> " .. PROMPT:rep(3), "!", "=", "=", "="))
  end)

  it("does what was sent whole before the peer went, and forgets what was not", function()
    raw("> POST /prompt HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 200\\r\\n\\r\\n{", "!")
    raw("> POST /free HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 21\\r\\n\\r\\n{\"free_memory\": true}", "!")
    local record = raw("?", "> GET /moonpool/record HTTP/1.0\\r\\n\\r\\n", "$")
    assert.matches('"frees": 1,', record, 1, true)
    assert.matches('"prompts": 0,', record, 1, true)
  end)

  it("upgrades a connection that was used before, and one whose head came in pieces", function()
    local ws = "GET /ws?clientId=%s HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
    local out = raw("> " .. PROMPT, "=", "> " .. ws:format "a", "=")
    assert.equal(IDLE .. "101\n", out)
    assert.equal("101\n", raw("> " .. ws:format("b"):sub(1, 40), "?", "> " .. ws:format("b"):sub(41), "="))
    assert.equal("404 404: Not Found\n" .. IDLE, raw("> " .. ws:format("c"):gsub("/ws", "//ws", 1) .. PROMPT, "=", "="))
    assert.equal(IDLE, raw("> " .. ws:format("c"):gsub("/ws", "/prompt", 1), "="))
    for _, part in ipairs { "Sec%-WebSocket%-Key: [^\\]*\\r\\n", "Connection: Upgrade\\r\\n", "Upgrade: websocket\\r\\n" } do
      assert.matches("^400 No WebSocket UPGRADE hdr", raw("> " .. ws:format("d"):gsub(part, "", 1), "="), part)
    end
    assert.matches("^405.*\n" .. IDLE:gsub("%p", "%%%0"),
      raw("> POST /ws HTTP/1.1\\r\\nHost: x\\r\\nUpgrade: websocket\\r\\nConnection: upgrade\\r\\nSec-WebSocket-Key: x\\r\\nContent-Length: 2\\r\\n\\r\\n{}" .. PROMPT, "=", "="))
  end)
end)
