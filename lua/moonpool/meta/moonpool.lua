---@meta moonpool
-- luacheck: ignore
-- Types of the Lua API of Moonpool 0.1 (commit ac4bc8d) for LuaLS editors. Nothing here runs.
-- Times are milliseconds. Wrong arguments raise; what goes wrong outside comes back as nil, err.
-- "Waits": inside a task of moonpool.spawn it yields, outside of any task it runs the loop. Callbacks and hooks may not wait.

-- ---- words ---------------------------------------------------------------------------------------------------------

---@alias moonpool.JobStatus "pending"|"assigned"|"running"|"completed"|"failed"|"canceled"|"no_clients"
---@alias moonpool.ClientState "idle"|"busy"|"connecting"|"offline"
---@alias moonpool.LogLevel "debug"|"info"|"warn"|"error"|"silent"
---@alias moonpool.NodeStatus "pending"|"executing"|"completed"|"cached"|"failed"
---@alias moonpool.SimVersion "0.18.1"|"0.3.75"|"0.3.64"|"2024-10"
---@alias moonpool.By "class"|"node"|"client"|"workflow"
---@alias moonpool.WhyReason "first"|"input"|"ancestor"|"evicted"|"other_client"|"unfinished"|"never_cached"|"unknown"

---Why a job failed (result.error.kind, failure.kind of a policy).
---@alias moonpool.FailureKind
---| "connection" # the server could not be reached
---| "client_incompatible" # that server lacks a node class or a file
---| "workflow_invalid" # no server would take it
---| "node_error" # a node raised
---| "out_of_memory" # a node ran out of memory
---| "server" # the server did not answer as ComfyUI does
---| "timeout" # nothing was heard for too long, or total_ms is over
---| "lost" # the server does not know the prompt any more
---| "interrupted" # somebody stopped it on the server
---| "canceled" # the script canceled it
---| "no_clients" # no client that could run it
---| "policy" # a policy said no

---Kinds of nil, err; those of failed jobs are among them.
---@alias moonpool.ErrorKind moonpool.FailureKind
---| "invalid"
---| "memory"
---| "busy"
---| "full"
---| "gone"
---| "parse"
---| "limit"
---| "io"
---| "aborted"
---| "tls"
---| "closed"
---| "csv"
---| "config"
---| "error"

---An error as a value. tostring(err) gives "kind: message".
---@class moonpool.Error
---@field kind moonpool.ErrorKind
---@field message string One sentence.
---@field client? string Name of the client it happened on.
---@field node? string Node id (failed jobs).
---@field node_type? string Class of that node (failed jobs).
---@field details? any What the server said, decoded JSON (failed jobs).
---@field code? integer Close code or HTTP status (kind "closed" of a WebSocket).

-- ---- options ---------------------------------------------------------------------------------------------------------

---Options of moonpool.pool.
---@class moonpool.PoolOptions
---@field policy? string|moonpool.Policy|table|false Name, file, functions, {file, option = value}, or a list of these (default "default").
---@field profiling? boolean Keep a profile of each job (default true).
---@field profile_log? string File that gets one line of JSON for each job that ends with a profile (default none).
---@field profile_label? string Word written into each line of the log (default none).
---@field profile_log_bytes? number Start a new file before it grows beyond so many bytes (default 0: never; 0 to 1e15).
---@field profile_log_keep? integer Old log files that are kept (default 3; 0 to 1000).
---@field connect_timeout_ms? number One attempt to connect (ms, default 10000, from 1).
---@field request_timeout_ms? number One HTTP request; of downloads and uploads a silence (ms, default 30000, from 1).
---@field unreachable_ms? number A client that holds our prompt cannot be reached: elsewhere (ms, default 120000, 0: off).
---@field no_client_ms? number Nobody there who could run a job: it fails (ms, default 60000, 0: off).
---@field node_silence_ms? number Nothing heard of a running prompt: given up (ms, default 300000, 0: off, also for first runs).
---@field cold_silence_ms? number The same for a workflow's first run on a client (ms, default 900000, at least node_silence_ms).
---@field execution_start_ms? number Taken by an idle server, and not begun: elsewhere (ms, default 60000, 0: off).
---@field total_ms? number From submit to the end (ms, default 0: off).
---@field cooldown_ms? number How long a workflow that failed on a client rests there (ms, default 60000, 0: not at all).
---@field max_failures_before_block? integer Failures in a row before that rest (default 1; 0 to 1000000, 0: no rest).
---@field catalogue_ms? number How often a missing class or model is looked up again (ms, default 60000, 0: off).
---@field affinity_fallback_ms? number After so long other clients may help those that claim the job (ms, default 0: off).
---@field take_backs? integer How often a prompt that only waits may move to an idle client (default 1; 0 to 255, 0: never).
---@field max_attempts? integer Attempts of one job (default 3; 1 to 1000).
---@field retry_delay_ms? number Before the next attempt; doubles each time, 30 % jitter (ms, default 1000, from 0).
---@field reconnect_base_ms? number First pause between attempts to connect (ms, default 1000, from 1).
---@field reconnect_cap_ms? number Longest pause between attempts to connect (ms, default 15000, from 1).
---@field inactivity_ms? number A socket without a byte for so long is lost (ms, default 60000, 2000 to 6e7, whole seconds).
---@field poll_ms? number How often a silent server is asked (ms, default 10000, from 1).
---@field settle_ms? number How long to wait for a prompt whose POST was lost (ms, default 5000, from 0).
---@field recheck_ms? number When a policy that left a job queued is asked again (ms, default 5000, from 1).
---@field max_queued? number Unfinished jobs; beyond it submit gives nil, err "full" (default 1000000; 1 to 1e9).
---@field completed_retention? number Ended jobs kept for look-ups (default 1000; 0 keeps all).
---@field progress_limit? integer Progress events kept for each node (default 256; 2 to 100000).
---@field monitoring? boolean A summary in the log (info) and as the event pool:status (default false).
---@field monitoring_interval_ms? number How often that summary is made (ms, default 60000, from 1).
---@field policy_instructions? integer VM instructions per call of a hook, ten times that to load (default 1000000; 1000 to 1e9).
---@field policy_memory_mb? number Memory of a policy file's own state (MiB, default 64; 1 to 1e6).
---@field policy_faults? integer After so many errors a policy is asked no more (default 10).
---@field log_level? moonpool.LogLevel Least level that is written (default "warn").
---@field seed? number For ids, jitter and seeds of -1 (default random; 0 to 9e15).

---Options of pool:add_client.
---@class moonpool.ClientOptions
---@field name? string Name of the client (default host and port of the URL).
---@field client_id? string clientId of its WebSocket (default "moonpool-" and a UUID).
---@field priority? number Higher goes first (default 0; -1e9 to 1e9).
---@field slots? integer Prompts there at once (default 2; 1 to 64).
---@field affinity? (moonpool.Workflow|string)[] Workflows or structural hashes that it claims (default none).
---@field tags? string[] Words for policies (default none).
---@field headers? table<string, string> HTTP headers of every request, by name.
---@field user? string User name for HTTP Basic.
---@field password? string Password for HTTP Basic.
---@field bearer? string Token sent as "Authorization: Bearer".
---@field api_key? string Key of Comfy.org for the prompts sent there.
---@field insecure? boolean Do not verify TLS (default false).
---@field ca_file? string File of certificate authorities; has to be readable.
---@field max_message? number Longest message of the WebSocket (bytes, default 64 MiB; 1024 to 4e9).

---Options of pool:submit and pool:submit_variants.
---@class moonpool.SubmitOptions
---@field job_id? string Your own id, 1 to 200 bytes; a second submit with it gives the first job.
---@field priority? number Higher goes first (default 0; -1e15 to 1e15).
---@field delay_ms? number Not sent before so long (ms, default 0).
---@field preferred_clients? (string|moonpool.Client)[] Names, URLs or clients that go first.
---@field excluded_clients? (string|moonpool.Client)[] Names, URLs or clients that never get it.
---@field priority_overrides? table<string|moonpool.Client, number> Priority of clients for this job alone.
---@field metadata? table Any JSON data of yours; it is in the result and the profile log.
---@field include_outputs? string[] Node ids or aliases; the result shows the outputs of these only.
---@field max_attempts? integer Attempts (default: the pool's; 1 to 1000).
---@field retry_delay_ms? number Before the next attempt (ms, default: the pool's, from 0).
---@field profiling? boolean Keep a profile (default: the pool's).
---@field partial_outputs? boolean Run it although the server refuses some of its outputs (default false).
---@field front? boolean Ask the server to put it at the front of its queue (default false).
---@field extra_data? table<string, any> Members of extra_data of the prompt.
---@field node_silence_ms? number Nothing heard of it while it runs: given up (ms, default: the pool's, 0: off).
---@field execution_start_ms? number Taken and not begun: elsewhere (ms, default: the pool's, 0: off).
---@field unreachable_ms? number Its client cannot be reached for so long: elsewhere (ms, default: the pool's, 0: off).
---@field no_client_ms? number Nobody there who could run it for so long: it fails (ms, default: the pool's, 0: off).
---@field request_timeout_ms? number Its POST, and the tenth of what an upload of it may take (ms, default: the pool's, from 1).
---@field total_ms? number From submit to the end (ms, default: the pool's, 0: off).

---Options of moonpool.sim.
---@class moonpool.SimOptions
---@field version? moonpool.SimVersion ComfyUI it behaves as (default "0.18.1").
---@field name? string Name of its device (default "Moonpool Simulated GPU").
---@field speed? number Work runs so many times as fast (default 1; 0.001 to 1e6).
---@field vram_gb? number VRAM for models (GB, default 24; 0.1 to 1e5).
---@field load_gb_s? number How fast models load (GB per second, default 2.5; 0.001 to 1e6).
---@field costs? table<string, number|moonpool.SimCost> What node classes take at speed 1, instead of the built-in figures.
---@field catalogue? string Text (not the path) of a saved GET /object_info (default: built-in classes).
---@field any_node? boolean Accept every node class; ends of the graph are outputs (default false).
---@field noise? number Standard deviation of what a node takes, as a share of it: 0 (default: always the same) to 1.
---@field any_ms? number What an unknown class takes (ms, default 50; 0 also means 50).
---@field cache? "classic"|"lru"|"none" What is kept of earlier prompts (default "classic").
---@field cache_size? integer Results kept with "lru" (default 100; 1 to 1e6).
---@field no_orphans? boolean A late close of a socket takes no newer one with the same id along (default false).
---@field random_errors? boolean Order of the errors of one node as each server draws it (default false).
---@field early? boolean What a prompt tells at once is told before the reply to its POST, as it now and then is by real servers (default false).
---@field previews? boolean Samplers send previews (default false).
---@field overhead_ms? number Pause between two prompts (ms, default 0; to 1e9).
---@field history_ms? number From execution_success (or error, interrupt) to the entry in the history; till then the job runs (ms, default 0; to 1e9).
---@field delay_ms? number Every message is held so long, each way (ms, default 0; to 1e6).
---@field host? string Address to listen on (default "127.0.0.1").
---@field port? integer Port (default 0: any free one; to 65535).
---@field seed? number For its ids and chance (default 1; 0 to 9e15).

---@class moonpool.SimCost
---@field ms? number Once for each run of the node (ms).
---@field step_ms? number For each step (ms).

---Options of sim:fail.
---@class moonpool.SimFailOptions
---@field class? string Node class that raises (default: any node).
---@field type? string Name of the exception (default "RuntimeError").
---@field message? string Its words (default "it broke").
---@field times? integer How many runs (default 1; 1 to 1e9).

---Options of sim:frames.
---@class moonpool.SimFramesOptions
---@field bytes? number They are as long as this at least: blanks follow what they say (default 0; to 1e9).
---@field ms? number Their bytes come one after the other, for so long (ms, default 0; to 1e9).
---@field times? integer How many frames, of all sockets together (default 1; 1 to 1e9).

---Options of moonpool.http.request.
---@class moonpool.HttpOptions
---@field url string http or https address; redirects are not followed.
---@field method? string Default "GET".
---@field body? string Body of the request.
---@field headers? table<string, string>|string[] {Name = value}, or a list of "Name: value".
---@field parts? moonpool.HttpPart[] multipart/form-data instead of a body.
---@field userpwd? string "user:password" for HTTP Basic.
---@field timeout_ms? number The whole request (ms, default 60000, from 1).
---@field connect_timeout_ms? number Connecting (ms, default 10000, from 1).
---@field silence_ms? number No byte for once to twice as long is a timeout (ms, default none, from 1).
---@field max_body? number A longer reply is nil, err "limit" (bytes, default 256 MiB; 1 to 4e9).
---@field insecure? boolean Do not verify TLS (default false).
---@field ca_file? string File of certificate authorities.

---@class moonpool.HttpPart
---@field name string
---@field data string
---@field filename? string
---@field type? string Content type.

---Options of moonpool.ws.connect.
---@class moonpool.WsOptions
---@field url string ws, wss, http or https address.
---@field headers? table<string, string>|string[] {Name = value}, or a list of "Name: value".
---@field userpwd? string "user:password" for HTTP Basic.
---@field timeout_ms? number The handshake (ms, default 10000, from 1).
---@field max_message? number A longer message closes the socket (bytes, default 64 MiB; 1 to 4e9).
---@field insecure? boolean Do not verify TLS (default false).
---@field ca_file? string File of certificate authorities.

---Options of client:upload. Either path, or name and data, is needed.
---@class moonpool.UploadOptions
---@field path? string File to send; read at once.
---@field data? string Bytes to send instead.
---@field name? string Name on the server (default: that of path).
---@field subfolder? string Folder below the server's input folder.
---@field type? "input"|"temp"|"output" Which folder of the server (default: the server's, input).
---@field overwrite? boolean Replace a file of that name (default false: the server picks another name).

---Options of client:free.
---@class moonpool.FreeOptions
---@field unload_models? boolean
---@field free_memory? boolean

---Options of wf:attach_image and wf:attach_mask.
---@class moonpool.AttachOptions
---@field subfolder? string Folder below the server's (default "").
---@field type? "input"|"temp"|"output" Which folder of the server (default "input").
---@field override? boolean Replace a file of that name (default false: the server picks another name).
---@field original? moonpool.FileRef The picture on the server that this is the mask of; attach_mask needs it.

---@class moonpool.FileRef
---@field filename string
---@field subfolder? string
---@field type? string

---A file on disk, read for its digest at once and sent later.
---@class moonpool.FilePath
---@field path string

---One file of wf:attach_folder_files.
---@class moonpool.FolderFile
---@field name? string Name on the server (default: that of path; needed with data).
---@field data? string Bytes.
---@field path? string Or the file that holds them.

---Options of result:save.
---@class moonpool.SaveOptions
---@field pattern? string Name from {job} {node} {client} {filename} {name} {ext} {index} (default "{job}_{filename}").

---Options of result:fetch.
---@class moonpool.FetchOptions
---@field max_bytes? number A longer file is nil, err "limit" (default 256 MiB, from 1).

---Options of pool:shutdown.
---@class moonpool.ShutdownOptions
---@field drain? boolean Finish what was submitted instead of canceling it (default false).
---@field timeout_ms? number Wait at most so long (ms, default 2000; with drain no bound, then the rest is canceled).

---Options of client:remove and pool:remove_client.
---@class moonpool.RemoveOptions
---@field drain? boolean Finish there what it holds (default false: it goes elsewhere).

---Options of wf:find. All that are given have to fit.
---@class moonpool.FindOptions
---@field class? string Node class.
---@field title? string Title of the node.

---Options of profiles.load.
---@class moonpool.LoadOptions
---@field label? string Only runs with this label.

---Options of plan.run and plan.policies. Either log or service is needed.
---@class moonpool.PlanOptions
---@field log? string|moonpool.Runs Profile log, or runs: workflows and times are drawn from it.
---@field service? number|moonpool.PlanMean|number[] Instead of a log: ms for each job, a mean, or a list to draw from.
---@field clients? integer|moonpool.PlanClient[] How many (1 to 10000), or one table for each (default 1).
---@field arrivals? moonpool.PlanArrivals When jobs come (default: as in the log; needed with service).
---@field jobs? integer How many (default: as many as the arrivals have, 1000 for a rate; to 10000000).
---@field policy? string|moonpool.Policy|table|false As for moonpool.pool (default "default").
---@field delay_ms? number Network delay, one way (ms, default 0; to 300).
---@field slots? integer Slots of clients that name none (default 2; 0 to 64, 0: 2).
---@field cost_per_hour? number Cost of one client hour; the answer then has cost (above 0).
---@field seed? integer For chance (default 1, from 0).
---@field label? string Only runs of the log with this label; not used when log is runs.

---Options of plan.fewest. `clients` may not be a list here; a number is not used.
---@class moonpool.FewestOptions: moonpool.PlanOptions
---@field wait_p95_ms number 95 % of the jobs wait no longer (ms, above 0).
---@field most? integer Give up beyond so many clients (default 256; 1 to 10000).

---@class moonpool.PlanMean
---@field mean_ms number Mean of exponential times (ms, above 0).

---@class moonpool.PlanClient
---@field speed? number Default 1; 0.001 to 1000.
---@field priority? number Default 0; -1e9 to 1e9.
---@field slots? integer Default: the plan's slots; 0 to 64.

---One of these.
---@class moonpool.PlanArrivals
---@field rate_per_hour? number At random, so many in an hour.
---@field batch? true|integer All at once; a number says how many unless `jobs` does.
---@field times_ms? number[] These times (ms).
---@field trace? string A profile log, or a file with a time in seconds on each line.

-- ---- the module --------------------------------------------------------------------------------------------------------

---@class moonpool
---@field _VERSION string "moonpool 0.1"
---@field json moonpool.Json
---@field workflow moonpool.WorkflowLib
---@field http moonpool.HttpLib
---@field ws moonpool.WsLib
---@field task moonpool.TaskLib
---@field report moonpool.ReportLib
---@field profiles moonpool.ProfilesLib
---@field plan moonpool.PlanLib
---@field batch moonpool.BatchLib
---@field config moonpool.ConfigLib
---@field edit moonpool.EditLib
local moonpool = {}

---Makes a pool. Does not wait. Raises on wrong options, on policies that do not load and on a profile log that cannot be opened.
---@param options? moonpool.PoolOptions
---@return moonpool.Pool
function moonpool.pool(options) end

---Starts a simulated ComfyUI server on a real port. It serves as long as the script holds on to it.
---nil, err when the port cannot be had, or the version, cache, catalogue or costs are not right.
---@param options? moonpool.SimOptions
---@return moonpool.Sim? sim
---@return moonpool.Error? err
function moonpool.sim(options) end

---Starts fn(...) as a task at the loop's next turn. Does not wait.
---@param fn fun(...: any): ...
---@param ... any
---@return moonpool.Task
function moonpool.spawn(fn, ...) end

---Waits ms milliseconds.
---@param ms number
function moonpool.sleep(ms) end

---Runs the loop once and resumes tasks; for programs with a loop of their own. Raises inside a step, a task or a callback.
---@param wait_ms? integer Longest time to wait for something to happen (default 0).
function moonpool.step(wait_ms) end

---All pools that are open. For signal handlers.
---@return moonpool.Pool[]
function moonpool.pools() end

-- ---- JSON ------------------------------------------------------------------------------------------------------------------

---@class moonpool.Json
---@field null lightuserdata JSON's null.
local Json = {}

---A number that Lua's integers cannot hold, or given as text. tostring gives its text; two of equal text are equal.
---@class moonpool.JsonNumber: userdata

---Decodes a text. Arrays get a mark, null is json.null, whole numbers beyond 64 bits become a moonpool.JsonNumber.
---@param text string
---@return any value
---@return moonpool.Error? err Kind "parse" or "limit".
function Json.decode(text) end

---Encodes a value, workflows included; members of objects are sorted. Raises for what JSON cannot hold.
---@param value any
---@return string
function Json.encode(value) end

---Marks a table as an array, so that an empty one is written as [].
---@generic T: table
---@param list? T
---@return T
function Json.array(list) end

---The number of this text, written as it stands. Raises when the text is no JSON number.
---@param text string
---@return moonpool.JsonNumber
function Json.number(text) end

-- ---- workflows ---------------------------------------------------------------------------------------------------------------

---@class moonpool.WorkflowLib
local WorkflowLib = {}

---The workflow in a file: API-format JSON, or a PNG that ComfyUI saved. Reads the disk at once.
---@param path string
---@return moonpool.Workflow? workflow
---@return moonpool.Error? err Says what the file is instead, or where it breaks.
function WorkflowLib.load(path) end

---The workflow in a text (JSON, or the bytes of a PNG) or in a table of nodes.
---@param source string|table
---@return moonpool.Workflow? workflow
---@return moonpool.Error? err
function WorkflowLib.from(source) end

---true when the text or table is a workflow that could be submitted; else nil, err.
---@param source string|table
---@return true? ok
---@return moonpool.Error? err
function WorkflowLib.validate(source) end

---The structural hash of a JSON text, also of graphs that `from` refuses. nil, err when it is no JSON object.
---@param text string
---@return string? hash 64 hex digits.
---@return moonpool.Error? err
function WorkflowLib.hash(text) end

---A workflow. Methods that change it return it, so they chain; none of them waits.
---In a policy given by name or file, attach_*, name_* and names in set are not there.
---@class moonpool.Workflow: userdata
---@field structure_hash string 64 hex digits; equal for workflows that differ in values only.
---@field models string[] Model files that its inputs name.
local Workflow = {}

---A copy that can be changed without changing this one. Names of inputs are copied too.
---@return moonpool.Workflow
function Workflow:clone() end

---With a value: sets one input and returns the workflow (json.null for null). Without: returns the input, or nothing when it is not there.
---Raises when there is no such node. A list of two is a link; write {__value__ = {...}} for a literal one.
---@param node string
---@param name string
---@param value any
---@param options? {strict: boolean?} strict: raises when the node has no such input, instead of adding it.
---@return moonpool.Workflow
---@overload fun(self: moonpool.Workflow, node: string, name: string): any
function Workflow:input(node, name, value, options) end

---Sets several inputs of one node, or of several: wf:inputs{node = {name = value}}. Raises for unknown nodes.
---@param node string
---@param values table<string, any>
---@return moonpool.Workflow
---@overload fun(self: moonpool.Workflow, values: table<string, table<string, any>>): moonpool.Workflow
function Workflow:inputs(node, values) end

---Sets one input by its path ("6.text" or "6.inputs.text"), or all inputs that name_input gave this name. Raises for unknown nodes.
---@param path string
---@param value any nil is written as null.
---@return moonpool.Workflow
function Workflow:set(path, value) end

---Names a node as an output: output("final", "9"), output("final:9") or output("9"). Raises when there is no such node.
---@param alias string
---@param node? string
---@return moonpool.Workflow
function Workflow:output(alias, node) end

---The same as output(name, node).
---@param name string
---@param node? string
---@return moonpool.Workflow
function Workflow:name_output(name, node) end

---Gives one or more inputs ("6.text") a name; wf:set(name, value) then sets them all.
---@param name string
---@param ... string
---@return moonpool.Workflow
function Workflow:name_input(name, ...) end

---Ids of the nodes of a class or title, in the order of the file.
---@param options moonpool.FindOptions
---@return string[]
function Workflow:find(options) end

---All nodes, in the order of the file.
---@return moonpool.WorkflowNode[]
function Workflow:nodes() end

---@class moonpool.WorkflowNode
---@field id string
---@field class string
---@field title? string

---The text that would be sent.
---@return string
function Workflow:to_json() end

---Leaves nodes out as the editor's bypass does. Raises for unknown nodes.
---@param ids string|string[]
---@param object_info? table As client:object_info() gives it; without it outputs are joined to inputs by position.
---@return moonpool.Workflow
function Workflow:bypass(ids, object_info) end

---Takes a bypass back. Raises when a node is not bypassed.
---@param ids string|string[]
---@return moonpool.Workflow
function Workflow:reinstate(ids) end

---Sends a picture to the client before the prompt; the input gets the name that the server gives it.
---nil, err (kind "io") when the file cannot be read. Raises for unknown nodes and wrong names.
---@param node string
---@param input string
---@param source string|moonpool.FilePath Bytes, or {path = file}.
---@param name? string Name on the server (default: that of the path).
---@param options? moonpool.AttachOptions
---@return moonpool.Workflow? workflow
---@return moonpool.Error? err
function Workflow:attach_image(node, input, source, name, options) end

---As attach_image: the alpha of this picture becomes the mask of options.original.
---@param node string
---@param input string
---@param source string|moonpool.FilePath Bytes, or {path = file}.
---@param name string?
---@param options moonpool.AttachOptions `original` is needed.
---@return moonpool.Workflow? workflow
---@return moonpool.Error? err
function Workflow:attach_mask(node, input, source, name, options) end

---Files that only have to be on the server, in this subfolder of its input folder; files of that name there are replaced.
---@param subfolder string
---@param files moonpool.FolderFile[]
---@return moonpool.Workflow? workflow
---@return moonpool.Error? err
function Workflow:attach_folder_files(subfolder, files) end

-- ---- the pool ------------------------------------------------------------------------------------------------------------------

---A pool of clients. `local pool <close> = moonpool.pool {}` shuts it down at the end of the block.
---Methods raise once it is closed.
---@class moonpool.Pool: userdata
local Pool = {}

---Adds a client and begins to connect. Does not wait. http://user:password@host is understood.
---nil, err when the URL is no server address or is there already, or the pool is shutting down.
---@param url string http or https address.
---@param options? moonpool.ClientOptions
---@return moonpool.Client? client
---@return moonpool.Error? err
function Pool:add_client(url, options) end

---Takes a client out. What it holds goes elsewhere, or with drain is finished there first. Does not wait.
---@param which moonpool.Client|string Client, URL or name.
---@param options? moonpool.RemoveOptions
---@return boolean removed false when it is not there.
function Pool:remove_client(which, options) end

---All clients, in the order in which they were added.
---@return moonpool.Client[]
function Pool:clients() end

---The client with this URL or name, or nil.
---@param which string
---@return moonpool.Client?
function Pool:client(which) end

---The clients that are online and have nothing to do.
---@return moonpool.Client[]
function Pool:idle_clients() end

---The clients that may run this workflow: claims and blocks allow it.
---@param workflow moonpool.Workflow
---@return moonpool.Client[]
function Pool:clients_for(workflow) end

---Whether any client may run this workflow.
---@param workflow moonpool.Workflow
---@return boolean
function Pool:has_clients_for(workflow) end

---Waits until every client's first attempt to connect is decided. true when one is online; else nil, err (kind "no_clients").
---Clients that could not be reached go on trying.
---@return true? ok
---@return moonpool.Error? err
function Pool:init() end

---Makes a job of the workflow as it is now. Does not wait; inside a task every 32nd call lets the loop turn once.
---nil, err of kind "full", "policy" or "gone". Raises on wrong options.
---@param workflow moonpool.Workflow
---@param options? moonpool.SubmitOptions
---@return moonpool.Job? job
---@return moonpool.Error? err
function Pool:submit(workflow, options) end

---One job for whichever of these workflows can be sent first; of several that a client could run, the first in the list.
---Otherwise as submit.
---@param list moonpool.Workflow[]
---@param options? moonpool.SubmitOptions
---@return moonpool.Job? job
---@return moonpool.Error? err
function Pool:submit_variants(list, options) end

---The job of this id, or nothing when it was dropped or never there.
---@param id string|integer job.id; an integer is taken for the pool's own number.
---@return moonpool.Job?
function Pool:job(id) end

---Iterates over the results of all jobs as they end, each once, also of those that ended before. Waits in between.
---Ends when nothing is unfinished or undelivered, or the pool was closed.
---@return fun(): moonpool.Result?
function Pool:results() end

---Counts of jobs and clients, and the queues.
---@return moonpool.Stats
function Pool:stats() end

---Sends nothing new until resume; what is on servers goes on.
---@return moonpool.Pool
function Pool:pause() end

---Goes on after pause.
---@return moonpool.Pool
function Pool:resume() end

---Loads the pool's policy files again, as the option named them: all of them or, when one does not load, none. SIGHUP does it for all
---pools of the interpreter. Does not wait.
---@return true? ok
---@return moonpool.Error? err Kind "policy"; the old ones stay.
function Pool:reload_policy() end

---Calls fn(payload) at every event of that name. Errors of fn are logged. Raises for unknown names that begin with job: or pool:.
---Names of your own are for emit; "client:<type>" is any message of a server.
---@param name string
---@param fn fun(payload: any)
---@return moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:queued"|"job:started", fn: fun(payload: moonpool.JobEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:completed"|"job:canceled", fn: fun(payload: moonpool.JobEndEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:accepted"|"job:prompt_assigned", fn: fun(payload: moonpool.PromptEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:taken_back", fn: fun(payload: moonpool.PromptEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:progress", fn: fun(payload: moonpool.JobProgressEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:preview", fn: fun(payload: moonpool.PreviewEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:output", fn: fun(payload: moonpool.OutputEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:retrying", fn: fun(payload: moonpool.RetryEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "job:failed", fn: fun(payload: moonpool.FailedEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "client:state", fn: fun(payload: moonpool.StateEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "client:blocked_workflow", fn: fun(payload: moonpool.BlockEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "client:unblocked_workflow", fn: fun(payload: moonpool.BlockEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "client:message"|"client", fn: fun(payload: moonpool.MessageEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "pool:ready", fn: fun(payload: moonpool.ReadyEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "pool:error", fn: fun(payload: moonpool.PoolErrorEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "pool:status", fn: fun(payload: moonpool.StatusEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "queue", fn: fun(payload: moonpool.QueueEvent)): moonpool.Pool
---@overload fun(self: moonpool.Pool, name: "debug"|"info"|"warn"|"error", fn: fun(payload: moonpool.LogEvent)): moonpool.Pool
function Pool:on(name, fn) end

---Takes a listener off; without fn all of that name.
---@param name string
---@param fn? function
---@return moonpool.Pool
function Pool:off(name, fn) end

---Calls the listeners of that name with this value.
---@param name string
---@param value? any
function Pool:emit(name, value) end

---Stops taking jobs, cancels what has not ended (drain: finishes it), waits, and closes the pool. Safe twice.
---Where nothing may wait the rest happens in a task.
---@param options? moonpool.ShutdownOptions
function Pool:shutdown(options) end

---What pool:stats() gives.
---@class moonpool.Stats
---@field pending integer Jobs that wait in the pool, the delayed and parked ones included.
---@field assigned integer Jobs given to a client that has not begun them.
---@field running integer
---@field unfinished integer pending, assigned and running together.
---@field delayed integer Waiting for delay_ms or a retry.
---@field parked integer Held by a policy that said wait.
---@field completed integer
---@field failed integer
---@field canceled integer
---@field taken_back integer Prompts moved from a busy to an idle client.
---@field late integer Prompts that ended well after they had been given up; their results are not used.
---@field malformed integer Messages that could not be read.
---@field clients integer
---@field online integer
---@field paused boolean
---@field queues moonpool.QueueStats[] Each queue that holds something.

---@class moonpool.QueueStats
---@field workflow_hash string "" when it is not of one workflow.
---@field type "general"|"affinity"|"special"
---@field pending integer

-- ---- clients ---------------------------------------------------------------------------------------------------------------------

---A ComfyUI server in the pool. Reading a field raises once it was removed or the pool was closed.
---@class moonpool.Client: userdata
---@field name string
---@field url string
---@field client_id string clientId of its WebSocket.
---@field state moonpool.ClientState
---@field online boolean
---@field tried boolean Its first attempt to connect is decided.
---@field priority number In a hook: that of the job's priority_overrides, if it names this client.
---@field slots integer Prompts there at once.
---@field queued integer Our prompts there.
---@field free_slots integer
---@field last_hash string Structural hash of what ran there last; "" when nothing did.
---@field version? string As /system_stats says.
---@field problem? string Why it is not online, or takes nothing.
---@field tags string[]
---@field affinity string[] Structural hashes that it claims.
---@field devices moonpool.Device[]
---@field models string[] Model files of the workflow that ran there last.
---@field expected_ms number Until what is there has ended, as far as known (ms).
---@field warm? 0|1|2 In a hook: 2 it ran the job's workflow last, 1 it holds its models, 0 neither. nil outside.
---@field finish_ms number In a hook: expected end of the job there, from now (ms). Outside: expected_ms.
---@field index integer Number of the client in the order in which they were added.
---@field paused boolean
---@field draining boolean It is removed as soon as what it holds has ended.
---@field polling boolean Online without a socket: it is asked instead.
---@field blocked moonpool.Block[] Workflows that it does not get, and why.
---@field pool? moonpool.Pool nil in a policy given by name or file.
local Client = {}

---@class moonpool.Device
---@field name string
---@field vram_total number Bytes.
---@field vram_free number Bytes.

---@class moonpool.Block
---@field structure_hash string
---@field reason string
---@field until_ms? number Rest of the pause (ms); nil: until what is missing is there.

---How long workflows of this hash usually run there (ms), or nothing when that is not known.
---@param hash string
---@return number?
function Client:typical_ms(hash) end

---What the default policy compares, in one call; for policies.
---@return integer? warm 2: it ran this workflow last, 1: it holds its models, 0; nil outside of a hook.
---@return number priority For the job of the hook.
---@return number finish_ms When the job would be done there, from now.
function Client:standing() end

---Takes the client out. What it holds goes elsewhere, or with drain is finished there first. Does not wait.
---@param options? moonpool.RemoveOptions
---@return boolean
function Client:remove(options) end

---Sends nothing new there until resume.
---@return moonpool.Client
function Client:pause() end

---Goes on after pause.
---@return moonpool.Client
function Client:resume() end

---GET of any path on this server. Waits at most request_timeout_ms. The reply may have any status.
---@param path string
---@return moonpool.Reply? reply
---@return moonpool.Error? err
function Client:get(path) end

---POST of a text, or of a table as JSON. Waits at most request_timeout_ms. The reply may have any status.
---@param path string
---@param body? string|table
---@return moonpool.Reply? reply
---@return moonpool.Error? err
function Client:post(path, body) end

---GET /system_stats. Waits; gives the decoded JSON. Another status than 200 is nil, err (kind "server").
---@return table? stats
---@return moonpool.Error? err
function Client:system_stats() end

---GET /queue. Waits; gives the decoded JSON. Another status than 200 is nil, err (kind "server").
---@return table? queue
---@return moonpool.Error? err
function Client:queue() end

---GET /history, or /history/ID. Waits; gives the decoded JSON. Another status than 200 is nil, err (kind "server").
---@param prompt_id? string
---@return table? history
---@return moonpool.Error? err
function Client:history(prompt_id) end

---GET /object_info, or that of one class. Waits; gives the decoded JSON. Another status than 200 is nil, err (kind "server").
---@param class? string
---@return table? object_info
---@return moonpool.Error? err
function Client:object_info(class) end

---POST /free. Waits. Gives true, or what the server answered.
---@param what? moonpool.FreeOptions Default: both true.
---@return any ok
---@return moonpool.Error? err
function Client:free(what) end

---POST /interrupt. Waits. Servers before 0.3.57 ignore the id and stop whatever runs; all do without one, so it must be given.
---@param prompt_id string
---@return any ok
---@return moonpool.Error? err
function Client:interrupt(prompt_id) end

---Puts a file into the server's input folder. Waits. Gives the name to use in LoadImage, and the whole answer.
---@param options moonpool.UploadOptions
---@return string? name nil: the second value is a moonpool.Error.
---@return table|moonpool.Error answer
function Client:upload(options) end

-- ---- jobs --------------------------------------------------------------------------------------------------------------------------

---A job. Reading a field raises once its record was dropped or the pool was closed.
---@class moonpool.Job: userdata
---@field id string Your own job_id, else hex digits.
---@field status moonpool.JobStatus
---@field ended boolean
---@field progress number 0 to 1.
---@field priority number
---@field attempts integer
---@field waited_ms number Since it was submitted (ms).
---@field structure_hash string Of the workflow as submitted.
---@field models string[] Model files that the workflow names.
---@field prompt_id? string Of the last attempt.
---@field client? string Name of the last client.
---@field client_url? string URL of the last client.
---@field error? moonpool.Error Of the last attempt that failed.
---@field raw_outputs table<string, any> What the server announced, by node id.
---@field aliases table<string, string> Node ids by the names that wf:output gave.
---@field auto_seeds moonpool.AutoSeed[] Seeds drawn for inputs of -1.
---@field metadata? table As given to submit.
---@field include? string[] include_outputs as given to submit.
---@field cached_outputs table<string, true> Nodes whose output is an earlier answer of the server.
---@field pictures moonpool.Picture[] Pictures that came over the socket.
---@field sent? moonpool.Workflow The workflow as it was sent last.
---@field profile? moonpool.Profile nil when profiling is off.
---@field pool? moonpool.Pool nil in a policy given by name or file.
local Job = {}

---@class moonpool.AutoSeed
---@field node string
---@field input string
---@field seed integer

---A picture of SaveImageWebsocket.
---@class moonpool.Picture
---@field node string
---@field data string Bytes of a PNG.

---Waits for the end and gives the result; pool:results() then leaves it out.
---nil, err of kind "timeout" (the job goes on) or "gone" (the pool was closed).
---@param timeout_ms? number
---@return moonpool.Result? result
---@return moonpool.Error? err
function Job:wait(timeout_ms) end

---The result if the job has ended, else nil. Does not wait; pool:results() still gives it.
---@return moonpool.Result?
function Job:result() end

---Cancels the job; what is on a server is deleted or interrupted there. Does not wait.
---@return boolean canceled false when it had ended.
function Job:cancel() end

---Changes the priority while the job waits in the pool.
---@param priority number -1e15 to 1e15.
---@return boolean changed false when it no longer waits.
function Job:set_priority(priority) end

---Time until the end as earlier runs tell (ms), and a range that holds nine times of ten. Nothing while that is not known.
---@return number? left
---@return number? low
---@return number? high
function Job:time_left() end

---Calls fn(payload) at this job's events. Does nothing when the job has ended.
---@param name "accepted"|"started"|"progress"|"preview"|"output"|"retrying"|"taken_back"|"completed"|"failed"|"canceled"
---@param fn fun(payload: any)
---@return moonpool.Job
---@overload fun(self: moonpool.Job, name: "accepted"|"taken_back", fn: fun(payload: moonpool.PromptEvent)): moonpool.Job
---@overload fun(self: moonpool.Job, name: "started", fn: fun(payload: moonpool.JobEvent)): moonpool.Job
---@overload fun(self: moonpool.Job, name: "completed"|"canceled", fn: fun(payload: moonpool.JobEndEvent)): moonpool.Job
---@overload fun(self: moonpool.Job, name: "progress", fn: fun(payload: moonpool.JobProgressEvent)): moonpool.Job
---@overload fun(self: moonpool.Job, name: "preview", fn: fun(payload: moonpool.PreviewEvent)): moonpool.Job
---@overload fun(self: moonpool.Job, name: "output", fn: fun(payload: moonpool.OutputEvent)): moonpool.Job
---@overload fun(self: moonpool.Job, name: "retrying", fn: fun(payload: moonpool.RetryEvent)): moonpool.Job
---@overload fun(self: moonpool.Job, name: "failed", fn: fun(payload: moonpool.FailedEvent)): moonpool.Job
function Job:on(name, fn) end

-- ---- results -----------------------------------------------------------------------------------------------------------------------

---How a job ended. Its fields outlive the pool; fetch and save need the pool and the client.
---@class moonpool.Result
---@field status "completed"|"failed"|"canceled"
---@field job_id string
---@field prompt_id? string
---@field client? string Name of the client.
---@field error? moonpool.Error nil when completed.
---@field attempts integer
---@field job moonpool.Job
---@field outputs table<string, any> What the server announced, by node id and alias; those of include_outputs only.
---@field raw_outputs table<string, any> The same of all nodes, by node id.
---@field files moonpool.File[] Every file among the outputs.
---@field images moonpool.File[] Those of kind "images".
---@field encrypted_images moonpool.File[] Those of kind "encrypted_images".
---@field auto_seeds moonpool.AutoSeed[] Seeds drawn for inputs of -1.
---@field metadata? table As given to submit.
---@field workflow? moonpool.Workflow What was sent; nil if nothing was.
---@field profile? moonpool.Profile nil when profiling is off.
local Result = {}

---A file among the outputs of a job.
---@class moonpool.File
---@field filename string
---@field subfolder? string
---@field type? string "output", "temp", "input", or "memory" for pictures that came over the socket.
---@field node string Node id.
---@field kind string Member of the output that lists it: "images", "gifs", "audio" and so on.
---@field url? string Address of the file; nil when data is there.
---@field cached? true The server gave an earlier answer.
---@field data? string Bytes of a picture that came over the socket.

---Fetches every output file into a folder, made when it is not there. Waits. Gives the paths.
---On nil, err what was saved before stays. Each download is tried three times.
---@param dir string
---@param options? moonpool.SaveOptions
---@return string[]? paths
---@return moonpool.Error? err
function Result:save(dir, options) end

---The bytes of one output file. Waits; tried three times. nil, err of kind "limit", "server", "gone" and those of requests.
---@param file moonpool.File|moonpool.FileRef
---@param options? moonpool.FetchOptions
---@return string? bytes
---@return moonpool.Error? err
function Result:fetch(file, options) end

-- ---- events ------------------------------------------------------------------------------------------------------------------------

---@class moonpool.Event
---@field name string Name of the event.

---Events of jobs. The client is nil while there is none.
---@class moonpool.JobEvent: moonpool.Event
---@field job_id string
---@field client? string Name of the client.
---@field client_url? string

---job:completed, job:canceled.
---@class moonpool.JobEndEvent: moonpool.JobEvent
---@field error? string Words, if there are any.

---job:accepted (also job:prompt_assigned), job:taken_back.
---@class moonpool.PromptEvent: moonpool.JobEvent
---@field prompt_id string

---job:progress.
---@class moonpool.JobProgressEvent: moonpool.JobEvent
---@field node string
---@field value number
---@field max number
---@field overall number 0 to 1 for the whole job.

---job:preview.
---@class moonpool.PreviewEvent: moonpool.JobEvent
---@field node? string
---@field image string Bytes.
---@field format string "jpeg", "png" or "webp".
---@field width integer Pixels; 0 when the bytes do not tell.
---@field height integer

---job:output.
---@class moonpool.OutputEvent: moonpool.JobEvent
---@field node string
---@field output any Decoded JSON.

---job:retrying.
---@class moonpool.RetryEvent: moonpool.JobEvent
---@field error string
---@field delay_ms number
---@field will_retry true

---job:failed.
---@class moonpool.FailedEvent: moonpool.JobEvent
---@field error? string
---@field will_retry false

---client:state.
---@class moonpool.StateEvent: moonpool.Event
---@field client string
---@field client_url string
---@field state moonpool.ClientState|"removed"
---@field problem? string

---client:blocked_workflow, client:unblocked_workflow.
---@class moonpool.BlockEvent: moonpool.Event
---@field client string
---@field client_url string
---@field structure_hash string
---@field error? string Why; nil when unblocked.

---client:message (also client) and client:<type>: any message of a server. Its name is always "client:message".
---@class moonpool.MessageEvent: moonpool.Event
---@field client string
---@field client_url string
---@field job_id? string The job of ours that it is about.
---@field event_type string
---@field event_data any Decoded JSON.

---pool:ready.
---@class moonpool.ReadyEvent: moonpool.Event
---@field online integer
---@field problems string[] What is wrong with the other clients.

---pool:error.
---@class moonpool.PoolErrorEvent: moonpool.Event
---@field error moonpool.Error

---pool:status, with the option monitoring.
---@class moonpool.StatusEvent: moonpool.Event
---@field stats moonpool.Stats
---@field clients moonpool.ClientStatus[]

---@class moonpool.ClientStatus
---@field name string
---@field url string
---@field state moonpool.ClientState
---@field queued integer
---@field slots integer
---@field problem? string
---@field last_hash string

---queue: a job came or ended.
---@class moonpool.QueueEvent: moonpool.Event
---@field job_id string
---@field pending integer
---@field assigned integer
---@field running integer

---debug, info, warn, error: a line of the log.
---@class moonpool.LogEvent: moonpool.Event
---@field message string

-- ---- policies ----------------------------------------------------------------------------------------------------------------------

---Hooks of a policy; all are optional. They may not wait, submit, cancel or change the pool.
---Of several policies the first with an answer wins, and any of them may refuse in admit; mutate runs in all, one after the other.
---@class moonpool.Policy
---At submit. false and words refuse the job: submit gives nil, err of kind "policy".
---@field admit? fun(job: moonpool.Job): boolean?, string?
---At submit and set_priority. Higher goes first; nil leaves the job's priority.
---@field rank? fun(job: moonpool.Job): number?
---Picks one of at most 16 clients; false leaves the job queued, nil is no opinion. Stage 1: idle clients; 2: a second prompt.
---@field route? fun(job: moonpool.Job, clients: moonpool.Client[], stage: integer): moonpool.Client|false|nil
---May change the copy that is sent. Returns a workflow, or nil for the copy it was given.
---@field mutate? fun(job: moonpool.Job, client: moonpool.Client, workflow: moonpool.Workflow): moonpool.Workflow?
---After an attempt that failed. nil is no opinion.
---@field on_failure? fun(job: moonpool.Job, failure: moonpool.Failure): "retry"|"fail"|nil

---What on_failure gets.
---@class moonpool.Failure
---@field kind moonpool.FailureKind
---@field message string
---@field node? string
---@field client string Name of the client.
---@field attempts integer Attempts used up so far.

-- ---- HTTP and WebSocket ------------------------------------------------------------------------------------------------------------

---@class moonpool.HttpLib
local HttpLib = {}

---One request. Waits. Gives the reply whatever its status; nil, err of kind connection, timeout, tls, limit or invalid.
---@param options moonpool.HttpOptions
---@return moonpool.Reply? reply
---@return moonpool.Error? err
function HttpLib.request(options) end

---@class moonpool.Reply
---@field status integer
---@field body string
---@field content_type? string
---@field headers table<string, string> Names in lower case.

---@class moonpool.WsLib
local WsLib = {}

---Opens a WebSocket. Waits for the handshake. nil, err (kind "connection" or "invalid") when it cannot be had.
---@param options moonpool.WsOptions
---@return moonpool.Socket? socket
---@return moonpool.Error? err
function WsLib.connect(options) end

---A WebSocket. `local s <close> = ...` closes it at the end of the block.
---@class moonpool.Socket
---@field closed? moonpool.SocketEnd Set when it has ended.
local Socket = {}

---@class moonpool.SocketEnd
---@field code integer Close code, or the HTTP status of a refusal.
---@field reason string

---Waits for the next message. nil, err of kind "closed" (with code) or "timeout".
---@param timeout_ms? number
---@return string? data nil: the second value is a moonpool.Error.
---@return boolean|moonpool.Error is_binary
function Socket:receive(timeout_ms) end

---Sends a message. Does not wait. false when the socket has ended.
---@param data string
---@param binary? boolean Default false: text.
---@return boolean sent
function Socket:send(data, binary) end

---Closes the socket. Does not wait.
---@param code? integer Default 1000.
---@param reason? string
function Socket:close(code, reason) end

-- ---- tasks -------------------------------------------------------------------------------------------------------------------------

---A task of moonpool.spawn.
---@class moonpool.Task
---@field done boolean It has ended.
---@field error? any What it raised; a text comes with its traceback.
local Task = {}

---Waits for the end and gives the task's results; raises what it raised. nil, err (kind "timeout") when the time is up first.
---@param timeout_ms? number
---@return any ...
function Task:wait(timeout_ms) end

---Ends the task: what it waits for is given up (a job or a task it waits for is canceled, too), and the wait raises an error of kind
---"canceled" inside of it. A task that only computes ends at its next wait.
---@return boolean canceled false: it had ended.
function Task:cancel() end

---moonpool.task: tasks, and waiting for several of them.
---@class moonpool.TaskLib
local TaskLib = {}

---The same as moonpool.spawn.
---@param fn fun(...: any): ...
---@param ... any
---@return moonpool.Task
function TaskLib.spawn(fn, ...) end

---The same as moonpool.sleep.
---@param ms number
function TaskLib.sleep(ms) end

---Waits for all tasks of a list and gives the first result of each; when all have ended, raises the first error in the order of the
---list. nil, err (kind "timeout") when the time is up first; they go on.
---@param tasks moonpool.Task[]
---@param timeout_ms? number
---@return any[]? results
---@return moonpool.Error? err
function TaskLib.all(tasks, timeout_ms) end

---Waits until one of the tasks has ended: its place in the list and its results, or its error is raised. The others go on.
---@param tasks moonpool.Task[]
---@param timeout_ms? number
---@return integer? place
---@return any ...
function TaskLib.first(tasks, timeout_ms) end

---Runs fn(item, place) for every item of a list or an iterator, at most n at a time, and waits for all. The first error cancels the
---rest and is raised.
---@param n integer
---@param items any[]|fun(): any
---@param fn fun(item: any, place: integer): any
---@return any[] results By place.
function TaskLib.workers(n, items, fn) end

---A queue between tasks that holds up to `room` values (default 1).
---@param room? integer
---@return moonpool.Channel
function TaskLib.channel(room) end

---@class moonpool.Channel
local Channel = {}

---Waits while the channel is full. Raises when it is closed.
---@param value any Not nil.
function Channel:put(value) end

---Waits for a value. nil when the channel is closed and empty; nil, err (kind "timeout") when nothing came in time.
---@param timeout_ms? number
---@return any value
---@return moonpool.Error? err
function Channel:get(timeout_ms) end

---For loops: `for v in channel:values() do`; ends when the channel is closed and empty.
---@return fun(): any
function Channel:values() end

---What is inside may still be taken; nothing more is put.
function Channel:close() end

-- ---- batches -----------------------------------------------------------------------------------------------------------------------

---moonpool.batch: what batch scripts do again and again.
---@class moonpool.BatchLib
local BatchLib = {}

---Every combination of the values, the last name changing fastest.
---@param axes table<string, any[]>|any[][] name = values, or a list of {name, values} that keeps its order.
---@return table[]
function BatchLib.sweep(axes) end

---The rows of a CSV file as tables by the names in its first line.
---@param path string
---@param separator? string Default ",".
---@return table<string, string>[]? rows
---@return moonpool.Error? err Kind "io" or "csv", with the row.
function BatchLib.csv(path, separator) end

---The pictures in a folder, sorted by name.
---@param folder string
---@return moonpool.Image[]? images
---@return moonpool.Error? err
function BatchLib.images(folder) end

---@class moonpool.Image
---@field path string
---@field name string
---@field stem string The name without its ending.

---A harmless file name that depends on nothing but its arguments, at most 120 bytes long.
---@param stem string
---@param fields? table<string, any>
---@return string
function BatchLib.name(stem, fields) end

---What a batch has done so far, a line per item in a file.
---@param path string Made when it is not there.
---@return moonpool.Manifest? manifest
---@return moonpool.Error? err
function BatchLib.manifest(path) end

---@class moonpool.Manifest
---@field path string
local Manifest = {}

---Whether the item is done, and all of its files are there.
---@param key any
---@return boolean
function Manifest:done(key) end

---Notes that the item is done, at once and on disk.
---@param key any
---@param files? string[]
---@return true? ok
---@return moonpool.Error? err
function Manifest:add(key, files) end

---Closes the file; <close> does it, too.
function Manifest:close() end

---moonpool.config: servers and defaults from MOONPOOL_SERVERS, or a moonpool.lua here or in ~/.config/moonpool.
---@class moonpool.ConfigLib
local ConfigLib = {}

---The configuration; with nothing to be found, empty.
---@return moonpool.Config? config
---@return moonpool.Error? err Kind "config": a file is there and wrong.
function ConfigLib.load() end

---Adds the configured servers to a pool.
---@param pool moonpool.Pool
---@return integer? count
---@return moonpool.Error? err
function ConfigLib.add_to(pool) end

---@class moonpool.Config
---@field servers {url: string, options: moonpool.ClientOptions}[]
---@field pool moonpool.PoolOptions
---@field submit table<string, any> Defaults of `moonpool submit`: out, name.
---@field from? string The file it was read from.

---moonpool.edit: changes of a workflow given as words, as `moonpool submit --set` takes them.
---@class moonpool.EditLib
local EditLib = {}

---The node that an id, a title or a class means.
---@param workflow moonpool.Workflow
---@param name string
---@return string? id
---@return string? words
function EditLib.node(workflow, name) end

---The node and input that "NODE.input" means.
---@param workflow moonpool.Workflow
---@param path string
---@return string? id
---@return string input Or words, when there is no such thing.
function EditLib.target(workflow, path) end

---Text as a value of the kind that the input has now.
---@param workflow moonpool.Workflow
---@param id string
---@param input string
---@param text string
---@return any value
---@return string? words
function EditLib.value(workflow, id, input, text) end

---"NODE.input=value".
---@param workflow moonpool.Workflow
---@param words string
---@return {id: string, input: string, value: any}? change
---@return string? words
function EditLib.parse(workflow, words) end

---"NODE.input=a,b,c" or "NODE.input=1..9:2".
---@param workflow moonpool.Workflow
---@param words string
---@return {id: string, input: string, values: any[]}? change
---@return string? words
function EditLib.sweep(workflow, words) end

---The inputs that hold a seed: {{id, input}, ...}.
---@param workflow moonpool.Workflow
---@return string[][]
function EditLib.seeds(workflow) end

-- ---- simulated servers -------------------------------------------------------------------------------------------------------------

---A simulated ComfyUI server. `local sim <close> = ...` stops it at the end of the block. Methods raise once it is closed.
---@class moonpool.Sim: userdata
---@field port integer
---@field url string "http://127.0.0.1:PORT", whatever host it listens on.
local Sim = {}

---Cuts all sockets; work goes on.
function Sim:drop() end

---Restarts it: all but its files is gone, and connections are refused for so long.
---@param ms? number Default 0.
function Sim:restart(ms) end

---Answers nothing and does nothing for so long.
---@param ms number
function Sim:stall(ms) end

---Prompts are taken and none is begun, until a restart.
function Sim:wedge() end

---The next runs of a node class raise.
---@param options? moonpool.SimFailOptions
function Sim:fail(options) end

---So many interrupts have no effect.
---@param n integer
function Sim:lose_interrupts(n) end

---The next interrupt hits whatever runs after its prompt.
function Sim:late_interrupt() end

---The next frames of its sockets are huge, or slow.
---@param options? moonpool.SimFramesOptions
function Sim:frames(options) end

---Moves its wall clock by so much.
---@param ms number
function Sim:set_clock(ms) end

---Counts of what it has done so far.
---@return moonpool.SimRecord
function Sim:record() end

---Calls fn at all that its worker does; nil: no more. Node ids; `root` is the submitted node; `at` is ms since the Unix epoch.
---@param fn fun(mark: string?, node: string, root: string, what: "begins"|"waits"|"ends"|"cached"|"stops", at: number)|nil
function Sim:observe(fn) end

---Stops it. Safe twice.
function Sim:close() end

---@class moonpool.SimRecord
---@field requests integer
---@field prompts integer
---@field executed integer Nodes.
---@field cached integer Nodes.
---@field failed integer
---@field interrupted integer
---@field frees integer
---@field uploads integer
---@field waiting integer Prompts that wait or run now.
---@field gaps_ms number[] Time that the worker was idle between two prompts (ms).

-- ---- profiles ----------------------------------------------------------------------------------------------------------------------

---The profile of one job. Times are ms; instants are ms since the Unix epoch. Members marked "log" are in runs of a log only.
---@class moonpool.Profile
---@field schema? 1 Log.
---@field label? string Log: profile_label of the pool.
---@field jobId? string Log.
---@field jobStatus? "completed"|"failed"|"canceled" Log.
---@field jobError? string Log.
---@field clientUrl? string Log.
---@field serverVersion? string Log.
---@field device? string Log.
---@field metadata? any Log: as given to submit.
---@field promptId? string Of the last attempt.
---@field client? string Name of the last client.
---@field structureHash string Of the workflow as submitted.
---@field sentHash? string Of the workflow as sent.
---@field totalDuration number From submit to the end: queueTime + executionTime.
---@field queueTime number poolQueueTime + uploadTime + serverQueueTime + retryTime.
---@field executionTime number
---@field queuedAt number
---@field startedAt? number When the server began to execute; nil when it never did.
---@field completedAt number
---@field poolQueueTime number Waiting in the pool, in the last attempt.
---@field uploadTime number
---@field serverQueueTime number
---@field retryTime number From submit to the begin of the last attempt.
---@field transferTime number Downloads of the result.
---@field gapTime number Execution in which no node ran.
---@field overlapTime number Node durations that ran side by side.
---@field exact boolean false when something could not be seen.
---@field inferred? ("startedAt"|"completedAt"|"nodes"|"outcome")[] What was inferred.
---@field nodes moonpool.Node[]
---@field summary moonpool.Summary
---@field criticalPath string[] Node ids.
---@field attempts moonpool.Attempt[]

---@class moonpool.Node
---@field nodeId string
---@field type? string Node class; nil of inner nodes.
---@field title? string
---@field meta? table _meta of the workflow.
---@field modelLoad? true It names a model file and ran.
---@field inputs? table<string, any> Log: as sent, long values shortened with a digest.
---@field parentNode? string Of inner nodes: the submitted node.
---@field realNode? string Of inner nodes: the submitted node.
---@field displayNode string Node that the editor shows for it.
---@field startedAt? number
---@field completedAt? number
---@field duration? number
---@field cached boolean
---@field status moonpool.NodeStatus
---@field error? string
---@field executions integer
---@field progressEvents? moonpool.ProgressEvent[]
---@field progressDropped? integer Events that were not kept.
---@field rate? number Steps per second.
---@field inner? moonpool.Node[] Nodes that it was expanded into.

---@class moonpool.ProgressEvent
---@field timestamp number
---@field value number
---@field max number

---@class moonpool.Summary
---@field totalNodes integer
---@field executedNodes integer
---@field cachedNodes integer
---@field failedNodes integer
---@field pendingNodes integer
---@field slowestNodes moonpool.SlowNode[] At most 5.
---@field progressNodes string[] Ids of nodes that reported progress.

---@class moonpool.SlowNode
---@field nodeId string
---@field type? string
---@field title? string
---@field duration number

---@class moonpool.Attempt
---@field client? string
---@field promptId? string
---@field assignedAt? number
---@field sentAt? number
---@field startedAt? number
---@field endedAt? number
---@field outcome? "completed"|moonpool.FailureKind
---@field error? string

-- ---- many profiles -----------------------------------------------------------------------------------------------------------------

---@class moonpool.ProfilesLib
local ProfilesLib = {}

---Reads one or more profile logs at once. Lines that are no profile are skipped. nil, err (kind "io") when a file cannot be read.
---@param paths string|string[]
---@param options? moonpool.LoadOptions
---@return moonpool.Runs? runs
---@return moonpool.Error? err
function ProfilesLib.load(paths, options) end

---Compares two lists of numbers (finite, from 0). With less than five in a list p is 1 and the changes are 0.
---@param before number[]
---@param after number[]
---@param seed? integer Default 1.
---@return moonpool.Comparison
function ProfilesLib.compare(before, after, seed) end

---Runs of profile logs, in the order of their starts. #runs is their number, runs[i] the i-th.
---@class moonpool.Runs: userdata
---@field [integer] moonpool.Profile
---@operator len: integer
local Runs = {}

---Lines that were left out, and how many of them are of a newer schema.
---@return integer skipped
---@return integer newer
function Runs:skipped() end

---How many of the runs completed.
---@return integer
function Runs:completed() end

---Where the time goes, most time first; cold and warm runs apart.
---@param by? moonpool.By Default "class".
---@return moonpool.Slow
function Runs:slow(by) end

---What the cache does, and why nodes ran again; most wasted time first.
---@return moonpool.CacheAnswer
function Runs:cache() end

---Why each node of run i ran. Raises when there is no such run.
---@param i integer
---@return moonpool.Why[]
function Runs:why(i) end

---Steps per second by node class, and how well the time left could be told.
---@return moonpool.ProgressAnswer
function Runs:progress() end

---What each client did with its time (ms).
---@return moonpool.ClientsAnswer
function Runs:clients() end

---Whether other is slower, by workflow and by node class.
---@param other moonpool.Runs
---@param seed? integer Default 1.
---@return moonpool.CompareAnswer
function Runs:compare(other, seed) end

---Figures of times (ms). All but count are nil when count is 0.
---@class moonpool.Figures
---@field count integer
---@field total? number
---@field mean? number
---@field p50? number
---@field p90? number
---@field p99? number
---@field max? number

---@class moonpool.Slow
---@field runs integer Runs that were begun.
---@field total number Their execution time (ms).
---@field rows moonpool.SlowRow[]

---@class moonpool.SlowRow: moonpool.Figures
---@field structureHash? string
---@field nodeId? string
---@field type? string
---@field title? string
---@field client? string
---@field cached integer
---@field failed integer
---@field share number Of the execution time, 0 to 1.
---@field cold moonpool.Figures
---@field warm moonpool.Figures

---@class moonpool.CacheAnswer
---@field runs integer
---@field ran integer
---@field cached integer
---@field hitRate number 0 to 1.
---@field nodes moonpool.CacheNode[]

---@class moonpool.CacheNode
---@field structureHash? string
---@field nodeId? string
---@field type? string
---@field title? string
---@field ran integer
---@field cached integer
---@field hitRate number 0 to 1.
---@field distinct integer Different inputs.
---@field repeated integer Executions with inputs that had been executed before.
---@field wasted number Time of those that could have been spared (ms).
---@field reasons table<moonpool.WhyReason, integer>

---@class moonpool.Why
---@field nodeId? string
---@field type? string
---@field reason moonpool.WhyReason
---@field input? string The input that changed.
---@field old? string Its value before, as JSON.
---@field new? string Its value now, as JSON.
---@field ancestor? string Id of the node before it that changed or ran.
---@field other? string Hash of the other workflow, or name of the other client.

---@class moonpool.ProgressAnswer
---@field rows moonpool.ProgressRow[]
---@field timeLeft moonpool.TimeLeft

---Steps per second; medians over all nodes of the class.
---@class moonpool.ProgressRow
---@field type? string
---@field nodes integer
---@field first? number Between the first two reports.
---@field last? number Between the last two reports.
---@field median? number
---@field slowest? number
---@field share? number Of the execution, 0 to 1.

---Error of the time left at half way, as a share of it.
---@class moonpool.TimeLeft
---@field runs integer
---@field median? number
---@field p90? number

---@class moonpool.ClientsAnswer
---@field from? number Instant; nil when there is no attempt.
---@field to? number
---@field clients moonpool.ClientTime[]

---Times in ms.
---@class moonpool.ClientTime
---@field client string
---@field runs integer
---@field busy number
---@field utilization number 0 to 1.
---@field idle number
---@field noWork number Nothing waited in the pool.
---@field blocked number All that waited had failed here and was not tried here again.
---@field elsewhere number What waited went to others.
---@field held number Its next job waited in the pool.
---@field transfer number Its next job was being uploaded.
---@field network number Its next job was on its way.

---@class moonpool.CompareAnswer
---@field rows moonpool.CompareRow[]

---Medians in ms; changes are shares (0.1: ten per cent slower). Changes are nil when a side has less than five values.
---@class moonpool.CompareRow
---@field kind "workflow"|"class"
---@field structureHash? string Of kind "workflow".
---@field type? string Of kind "class".
---@field temperature "cold"|"warm"
---@field countA integer
---@field countB integer
---@field medianA? number
---@field medianB? number
---@field p90A? number
---@field p90B? number
---@field change? number
---@field low? number 95 % interval of change.
---@field high? number
---@field p90Change? number
---@field p90Low? number
---@field p90High? number
---@field p? number
---@field q? number p corrected for the number of rows.
---@field detectable? number Change that would have been found four times of five.
---@field verdict "slower"|"faster"|"same"|"too few"

---What profiles.compare gives.
---@class moonpool.Comparison
---@field medianA number
---@field medianB number
---@field change number
---@field low number
---@field high number
---@field p90A number
---@field p90B number
---@field p90Change number
---@field p90Low number
---@field p90High number
---@field p number
---@field detectable number

-- ---- reports -----------------------------------------------------------------------------------------------------------------------

---@class moonpool.ReportLib
local ReportLib = {}

---One profile as text. Raises when it is no profile.
---@param profile moonpool.Profile
---@return string
function ReportLib.text(profile) end

---A formatter: a built-in one by name (text), or a Lua file that returns function(profile) -> text. A file runs in a state of its own,
---as policies do; when it fails that is logged, and the built-in text is given. nil, words when it does not load.
---@param name string
---@param limits? {instructions: integer, memory_mb: number} Default 20000000 and 256.
---@return (fun(profile: moonpool.Profile): string)? formatter
---@return string? words
function ReportLib.load(name, limits) end

---What --report named; else the same as text.
---@param profile moonpool.Profile
---@return string
function ReportLib.default(profile) end

---What a Lua file given to --format of `moonpool report` returns. It runs in a state of its own; of the runs it can ask #runs and runs[i].
---@alias moonpool.Formatter fun(sheet: moonpool.Sheet, runs: moonpool.Runs): string

---An answer with its words.
---@class moonpool.Sheet
---@field title string
---@field answer table The plain figures: what runs:slow(), :cache(), :progress(), :clients() or :compare() gives.
---@field parts moonpool.SheetPart[]
---@field by? moonpool.By Of slow.
---@field slower? integer Of compare: rows that are slower.
---@field tested? integer Of compare: rows that could be tested.
---@field failing? number Of compare: how much larger the share of jobs is that did not complete.

---Facts, or a table (columns and rows), or lines.
---@class moonpool.SheetPart
---@field title? string
---@field facts? string[][] Pairs of name and text.
---@field columns? string[] Heads.
---@field rows? string[][] As they are shown.

-- ---- plans -------------------------------------------------------------------------------------------------------------------------

---@class moonpool.PlanLib
local PlanLib = {}

---What a load would do, in virtual time. Does not wait. nil, err when the plan does not come to an end; raises on wrong options and logs.
---@param options moonpool.PlanOptions
---@return moonpool.Plan? plan
---@return moonpool.Error? err
function PlanLib.run(options) end

---The fewest equal clients with which 95 % of the jobs wait no longer than wait_p95_ms, and the plan with them. Does not wait.
---nil, err (kind "full" or "policy") when no number up to `most` is enough.
---@param options moonpool.FewestOptions
---@return integer? clients nil: the second value is a moonpool.Error.
---@return moonpool.Plan|moonpool.Error plan
function PlanLib.fewest(options) end

---The same load under several policies. Does not wait.
---@param options moonpool.PlanOptions
---@param policies (string|moonpool.Policy|table|false)[]
---@return moonpool.PolicyPlan[]? list
---@return moonpool.Error? err
function PlanLib.policies(options, policies) end

---@class moonpool.PolicyPlan
---@field policy string|moonpool.Policy|table|false
---@field plan moonpool.Plan

---@class moonpool.Plan
---@field jobs integer
---@field refused integer Jobs that the policy refused.
---@field wait moonpool.PlanFigures From arrival to begin (ms).
---@field total moonpool.PlanFigures From arrival to end (ms).
---@field makespan_ms number
---@field taken_back integer
---@field utilization number 0 to 1, of all clients.
---@field client_hours number
---@field cost? number With cost_per_hour.
---@field clients moonpool.PlanClientUse[]

---All but count are nil when count is 0.
---@class moonpool.PlanFigures
---@field count integer
---@field mean? number
---@field p50? number
---@field p90? number
---@field p95? number
---@field p99? number
---@field max? number

---@class moonpool.PlanClientUse
---@field busy_ms number
---@field runs integer
---@field utilization number 0 to 1.

return moonpool
