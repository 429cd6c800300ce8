-- tests/spec/json_spec.lua: moonpool.json, text to values and back without loss.
local json = require "moonpool".json

-- What the text becomes after one way through Lua.
local function again(text)
  local value, err = json.decode(text)
  assert.is_nil(err, text)
  return json.encode(value)
end

local function refused(text)
  local value, err = json.decode(text)
  assert.is_nil(value, "accepted: " .. text)
  assert.is_table(err)
  assert.equal("parse", err.kind)
  return err.message
end

describe("moonpool.json: integers", function()
  it("is exact from text to text from -2^63 to 2^64-1, at every border", function()
    for _, text in ipairs {
      "0", "1", "-1", "9", "10", "255", "65536", "2147483647", "2147483648", "-2147483648", "-2147483649", "4294967295", "4294967296",
      "999999999999999", "1000000000000000", "9999999999999999",                       -- where 15 digits end
      "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993",   -- where doubles end
      "9223372036854775806", "9223372036854775807", "9223372036854775808", "9223372036854775809",
      "-9223372036854775807", "-9223372036854775808", "18446744073709551614", "18446744073709551615",
    } do
      assert.equal(text, again(text))
      assert.equal('[' .. text .. ',{"a":' .. text .. "}]", again(" [ " .. text .. ' , { "a" : ' .. text .. " } ] "))
    end
  end)

  it("is exact around every power of two", function()
    for bit = 0, 62 do
      for d = -1, 1 do
        local text = ("%d"):format((1 << bit) + d)
        assert.equal(text, again(text))
        assert.equal(math.tointeger(text), (json.decode(text)))
      end
    end
    for bit = 53, 63 do
      local text = ("%.0f"):format(2.0 ^ bit)
      assert.equal(text, again(text))
      assert.equal("-" .. text, again("-" .. text))
    end
  end)

  it("gives Lua integers as far as Lua goes", function()
    for text, value in pairs { ["9223372036854775807"] = math.maxinteger, ["-9223372036854775808"] = math.mininteger, ["9007199254740993"] = 9007199254740993, ["0"] = 0 } do
      local v = json.decode(text)
      assert.equal("integer", math.type(v))
      assert.equal(value, v)
    end
  end)

  it("gives a literal beyond Lua's integers, which holds the text", function()
    for _, text in ipairs { "9223372036854775808", "18446744073709551615", "-9223372036854775809", "18446744073709551616", "123456789012345678901234567890" } do
      local v = json.decode(text)
      assert.equal("userdata", type(v))
      assert.equal(text, tostring(v))
      assert.equal(text, json.encode(v))
    end
  end)

  it("compares literals by their text", function()
    assert.is_true(json.decode "18446744073709551615" == json.number "18446744073709551615")
    assert.is_false(json.decode "18446744073709551615" == json.number "18446744073709551614")
  end)

  it("makes literals from text, and only from the text of a number", function()
    assert.equal('{"seed":18446744073709551615}', json.encode { seed = json.number "18446744073709551615" })
    for _, text in ipairs { "", "abc", "1 2", "[1]", "0x10", "1NaN" } do
      assert.has_error(function() json.number(text) end)
    end
  end)

  it("writes every Lua integer", function()
    assert.equal("-9223372036854775808", json.encode(math.mininteger))
    assert.equal("9223372036854775807", json.encode(math.maxinteger))
    assert.equal("9007199254740993", json.encode(9007199254740993))
  end)
end)

describe("moonpool.json: floats", function()
  it("stay floats", function()
    for text, value in pairs { ["1.0"] = 1.0, ["0.5"] = 0.5, ["-0.0"] = -0.0, ["1e3"] = 1000.0, ["1E+2"] = 100.0, ["25e-1"] = 2.5, ["1.10"] = 1.1 } do
      local v = json.decode(text)
      assert.equal("float", math.type(v), text)
      assert.equal(value, v)
    end
    assert.equal("1.0", json.encode(1.0))
    assert.equal("float", math.type(json.decode(json.encode(2.0 ^ 53))))
  end)

  it("come back as the same double", function()
    for _, v in ipairs { 0.1, 0.1 + 0.2, 1 / 3, 2.5, 1e-7, 1e21, 1e22, 1e23, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 123456789.123456789, 2.0 ^ 53 + 2, 7.0 } do
      assert.equal(v, (json.decode(json.encode(v))))
      assert.equal(-v, (json.decode(json.encode(-v))))
    end
  end)

  it("keep the sign of zero", function()
    assert.equal(-math.huge, 1 / json.decode "-0.0")
    assert.equal("-0.0", json.encode(-0.0))
  end)

  it("may be NaN and infinite, as Python writes them", function()
    local v = json.decode '[NaN, Infinity, -Infinity, {"a": NaN}]'
    assert.is_true(v[1] ~= v[1])
    assert.equal(math.huge, v[2])
    assert.equal(-math.huge, v[3])
    assert.equal('[NaN,Infinity,-Infinity,{"a":NaN}]', json.encode(v))
  end)

  it("are not NaN inside of strings", function()
    assert.equal('["NaN","-Infinity 1e5",12345678901234567890]', again '["NaN","-Infinity 1e5",12345678901234567890]')
  end)

  it("are refused when a word is glued to a number", function()
    for _, text in ipairs { "1NaN", "[1Infinity]", "2.5NaN", '{"a":7NaN}', "NaN1", "NaNNaN", "-NaN", "-Infinity1", "Infinity.5", "nan", "inf", "+Infinity" } do
      assert.is_nil((json.decode(text)), "accepted: " .. text)
    end
  end)
end)

describe("moonpool.json: null, arrays, objects", function()
  it("has a null that is a value", function()
    local v = json.decode '{"a":null,"b":[null]}'
    assert.equal(json.null, v.a)
    assert.equal(json.null, v.b[1])
    assert.equal(json.null, (json.decode "null"))
    assert.equal('{"a":null,"b":[null]}', json.encode(v))
  end)

  it("keeps empty arrays apart from empty objects", function()
    assert.equal('[[],{},{"a":[],"o":{}}]', again '[[],{},{"a":[],"o":{}}]')
    assert.equal("[]", again "[ ]")
    assert.equal("{}", json.encode {})
    assert.equal("[]", json.encode(json.array()))
    assert.equal("[]", json.encode(json.array {}))
  end)

  it("keeps an emptied array an array", function()
    local v = json.decode "[1]"
    v[1] = nil
    assert.equal("[]", json.encode(v))
  end)

  it("writes names in order, so that the same table gives the same text", function()
    assert.equal('{"a":1,"aa":2,"b":3,"é":4}', json.encode { b = 3, ["é"] = 4, aa = 2, a = 1 })
  end)

  it("writes booleans and lists", function()
    assert.equal('[true,false,"x",[1,2]]', json.encode { true, false, "x", { 1, 2 } })
  end)

  it("refuses what has no JSON, and says so", function()
    for what, value in pairs { ["function"] = print, thread = coroutine.create(print), boolean = { [true] = 1 }, number = { [2] = 1 } } do
      local ok, words = pcall(json.encode, value)
      assert.is_false(ok)
      assert.matches("json.encode: .*" .. what .. ".*cannot be written as JSON", words)
    end
  end)

  it("refuses what has no JSON deep inside", function()
    assert.error_matches(function() json.encode { a = { b = { 1, { c = print } } } } end, "a function cannot be written as JSON")
  end)

  it("refuses a table that is list and object at once, rather than to drop half of it", function()
    assert.has_error(function() json.encode { 1, 2, a = 3 } end)
  end)
end)

describe("moonpool.json: depth and size", function()
  it("takes 200 levels", function()
    local text = ("["):rep(200) .. ("]"):rep(200)
    assert.equal(text, again(text))
    local objects = ('{"a":'):rep(200) .. "1" .. ("}"):rep(200)
    assert.equal(objects, again(objects))
  end)

  it("refuses deeper text, however deep", function()
    for _, n in ipairs { 201, 1000, 1001, 100000 } do
      for _, text in ipairs { ("["):rep(n) .. ("]"):rep(n), ("["):rep(n), ('{"a":'):rep(n) } do
        local v, err = json.decode(text)
        assert.is_nil(v)
        assert.equal("limit", err.kind)
        assert.matches("nested deeper than 200 levels", err.message)
      end
    end
  end)

  it("does not count brackets in strings", function()
    local text = '"' .. ("["):rep(1000) .. '\\"' .. ("{"):rep(1000) .. '"'
    assert.equal(text, again(text))
  end)

  it("refuses to write a table that contains itself", function()
    local t = {}
    t.t = t
    assert.error_matches(function() json.encode(t) end, "nested deeper than 200 levels %(or containing itself%)")
  end)

  it("takes a long array and a long string", function()
    local numbers = "[" .. ("18446744073709551615,"):rep(20000) .. "1]"
    assert.equal(numbers, again(numbers))
    local text = '"' .. ("ab\\n"):rep(200000) .. '"'
    assert.equal(text, again(text))
  end)
end)

describe("moonpool.json: what is no JSON", function()
  it("is refused", function()
    for _, text in ipairs {
      "", " ", "\n", "tru", "nul", "True", "{", "}", "[", "]", "[1,", "[1,]", "[,1]", "[1 2]", "[1;2]", '{"a"}', '{"a":}', '{"a" 1}', '{"a":1,}', "{a:1}", "{1:2}",
      "'a'", '"a', '"', '"\\', '"\\x"', '"\\u12"', '"\\u12g4"', "//x\n1", "/*x*/1", "[1]x", "[1][2]", "1 2", "undefined",
    } do refused(text) end
  end)

  it("is refused when a number is not well-formed", function()
    for _, text in ipairs { "01", "-01", "00", "1.", ".5", "-", "+1", "- 1", "1e", "1e+", "1.e5", "1-2", "1.2.3", "1e5e5", "0x10", "--1", "1_000", "[1,02]" } do refused(text) end
  end)

  it("is refused with the place where it breaks", function()
    for text, place in pairs {
      ["tru"] = "line 1, column 1", ["{a:1}"] = "line 1, column 2", ['{"a" 1}'] = "line 1, column 6", ["[1,\n2,\n 3 4]"] = "line 3, column 4", ["[1]x"] = "line 1, column 4",
      ["[1,\n 01]"] = "line 2, column 2", ["{\n\n\"a\": 1.}"] = "line 3, column 6",
    } do
      assert.matches(place, refused(text), 1, true)
    end
  end)

  it("is refused with a sentence that says what it is about", function()
    assert.matches("^no valid JSON: ", refused "[1,")
    assert.matches("malformed number", refused "[01]")
    assert.matches("text behind the value", refused "{} {}")
    assert.matches("nothing", refused "")
  end)

  it("is refused when a NUL byte stands between values", function()
    assert.is_nil((json.decode "1\0"))
    assert.is_nil((json.decode "[1e5,\0 1e5]"))
  end)

  it("raises for anything but a string", function()
    assert.has_error(function() json.decode(nil) end)
    assert.has_error(function() json.decode {} end)
    assert.has_error(function() json.encode() end)
  end)
end)

describe("moonpool.json: strings", function()
  it("decodes every escape", function()
    assert.equal('"\\/\b\f\n\r\t', (json.decode [["\"\\\/\b\f\n\r\t"]]))
    assert.equal("Aé€", (json.decode [["\u0041\u00e9\u20AC"]]))
    assert.equal("😀", (json.decode [["\ud83d\ude00"]]))
    assert.equal("a/b", (json.decode '"a/b"'))
  end)

  it("escapes what must be escaped, and nothing else", function()
    assert.equal([["\"\\/\b\f\n\r\t"]], json.encode '"\\/\b\f\n\r\t')
    assert.equal([["\u0000\u0001\u001f]] .. "\127" .. '"', json.encode "\0\1\31\127")
    assert.equal('"é€😀"', json.encode "é€😀")
  end)

  it("escapes in names too", function()
    assert.equal([[{"a\"b\n":1}]], json.encode { ['a"b\n'] = 1 })
    assert.equal(1, json.decode([[{"a\"b\n":1}]])['a"b\n'])
  end)

  it("writes valid UTF-8 for bytes that are none", function()
    for _, bytes in ipairs { "\xff", "\xc0\x80", "a\xe9", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80x", "\xf8\x88\x80\x80\x80" } do
      local text = json.encode { [bytes] = bytes }
      assert.is_truthy(utf8.len(text), ("%q gives %q"):format(bytes, text))
      assert.matches("\u{fffd}", text, 1, true)
      assert.is_table((json.decode(text)))
    end
    assert.equal('"a\u{fffd}b"', json.encode "a\xffb")
  end)

  it("does not cut a string at a NUL: it is read as U+FFFD, like a surrogate without its other half", function()
    assert.equal("a\u{fffd}b", json.decode [["a\u0000b"]])
    assert.equal("a\u{fffd}", json.decode [["a\ud83d"]])
  end)

  it("does not mix up names with a NUL", function()
    local ok, text = pcall(json.encode, { ["a\0b"] = 1, a = 2 })
    assert.is_true(not ok or text == [[{"a":2,"a\u0000b":1}]], text)
  end)

  it("accepts a lone surrogate, which Python and JavaScript write", function()
    local v, err = json.decode [=[["x\ud83d","\ude00y",1]]=]
    assert.is_nil(err)
    assert.equal(1, v[3])
    assert.is_truthy(utf8.len(json.encode(v)))
  end)
end)
