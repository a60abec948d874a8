import pytest

from broker.ami import (
    DANGEROUS_FUNCTIONS,
    SENSITIVE_EVENTS,
    all_actions,
    dangerous_application,
    dangerous_functions_in,
    is_regex_channel,
    is_secret_name,
    is_show_command,
    mask,
    reads_function,
    risks_of,
)


def tokens(action: str, *pairs: tuple[str, str]) -> list[str]:
    risks = risks_of(action, pairs)
    assert all(risk.why and not risk.why.endswith(".") for risk in risks)
    return [risk.token for risk in risks]


# -- what is harmless


@pytest.mark.parametrize(
    ("action", "pairs"),
    [
        ("Ping", []),
        ("Setvar", [("Channel", "PJSIP/1-1"), ("Variable", "CUSTOMER"), ("Value", "see the file (1) in the db (2)")]),
        ("Setvar", [("Variable", "DB"), ("Value", "x")]),
        ("Getvar", [("Channel", "PJSIP/1-1"), ("Variable", "DIALSTATUS")]),
        ("Getvar", [("Variable", "CALLERID(num)")]),
        ("Redirect", [("Channel", "PJSIP/1-1"), ("Exten", "100"), ("Context", "x"), ("Priority", "1")]),
        ("QueueAdd", [("Queue", "sales"), ("Interface", "PJSIP/1")]),
        ("DBGet", [("Family", "CF"), ("Key", "100")]),
        ("MixMonitor", [("Channel", "PJSIP/1-1"), ("File", "2026/call.wav"), ("Options", "bi(ID)")]),
        ("ConfbridgeStartRecord", [("Conference", "1"), ("RecordFile", "/var/spool/x.wav")]),
        ("Originate", [("Channel", "PJSIP/1"), ("Exten", "1"), ("Variable", "a=1,b=${c}"), ("Variable", "__x=y")]),
        ("Originate", [("Channel", "PJSIP/1"), ("Application", "Dial"), ("Data", "PJSIP/2,30,tT")]),
        ("Originate", [("Channel", "PJSIP/1"), ("Application", "Queue"), ("Data", "sales,t,,,60")]),
        ("Originate", [("Channel", "Local/1@x"), ("Application", "Wait"), ("Data", "5")]),
        ("Hangup", [("Channel", "PJSIP/1-1")]),
        ("Status", [("Variables", "A,B")]),
        ("UserEvent", [("UserEvent", "x"), ("Variable", "SHELL(ls)")]),
        ("Command", []),
        ("DongleSendSMS", [("Message", "x")]),
    ],
)
def test_no_risk(action: str, pairs: list[tuple[str, str]]) -> None:
    assert risks_of(action, pairs) == []


# -- whole actions


@pytest.mark.parametrize(
    "action", ["Login", "logoff", "Challenge", "EVENTS", "Filter", "WaitEvent", " WaitEvent", "\tLogoff"]
)
def test_the_session_is_the_workers_own(action: str) -> None:
    [risk] = risks_of(action, [])
    assert risk.never
    assert risk.token.lower() == action.strip().lower()


def test_every_risk_of_the_catalog_is_told() -> None:
    for spec in all_actions():
        risks = risks_of(spec.name.swapcase(), [("Command", "core stop now")] if spec.name == "Command" else [])
        assert [risk.token for risk in risks] == ([spec.name] if spec.risk else [])
        assert all(risk.never == (spec.risk == "session") for risk in risks)


# -- Command


@pytest.mark.parametrize(
    "line",
    [
        "core show channels", "core show channels concise", "CORE SHOW VERSION", "queue show", "queue show sales",
        "pjsip show endpoints", "pjsip show endpoint 100", "  core   show\tuptime ", "module show like pjsip",
        "core show hint 100@default", "confbridge show menus", "core show channel PJSIP/100-00000001",
    ],
)  # fmt: skip
def test_show_commands(line: str) -> None:
    assert is_show_command(line)
    assert tokens("Command", ("Command", line)) == []


@pytest.mark.parametrize(
    "line",
    [
        "core stop now", "core", "show", "show channels", "core restart now; core show channels", "!id", "! core show",
        "core show; core stop now", "core show !id", "core stop show", "dialplan add extension show", "module reload",
        "database show", "DataBase  Show", "database show secret", "dialplan show", "dialplan show globals",
        "pjsip show auth 100", "pjsip show auths", "Pjsip \t Show  AUTHS", "manager show user admin",
        "manager show users", "sip show users", "iax2 show users", "ari show user x", "realtime show x",
        "config show help", "core show globals",
        'core "show" channels', "core sho\\w channels", "core sh?w x", "{core} show", "core show 'x'",
        "core\u00a0show x", "\u017fip show users", "pj\u017fip show auths",
        "core show\u2028auths", "core-x show", "coreshow x", "core showchannels", "",
    ],
)  # fmt: skip
def test_other_commands(line: str) -> None:
    assert not is_show_command(line)


def test_commands_are_forbidden_but_for_show() -> None:
    assert tokens("Command", ("Command", "core stop now")) == ["Command"]
    assert tokens("cOmMaNd", ("cOMMAND", " \x01core stop now")) == ["Command"]
    assert tokens("Command", ("Command", "core show channels"), ("command", "core stop now")) == ["Command"]
    assert tokens("Command", ("Command", ""), ("Command", "core show uptime")) == []


# -- Originate


@pytest.mark.parametrize(
    ("application", "group"),
    [
        ("System", "System"), ("sYsTem", "System"), ("TrySystem", "System"), ("  System", "System"),
        ("\x02System", "System"), ("Exec", "Exec"), ("TryExec", "Exec"), ("ExecIf", "Exec"), ("AGI", "AGI"),
        ("FastAGI", "AGI"), ("deadagi", "AGI"), ("EAGI", "AGI"), ("ExternalIVR", "ExternalIVR"),
        ("MixMonitor", "MixMonitor"), ("originate", "Originate"), ("DBdeltree", "DBDel"), ("Reload", "Reload"),
    ],
)  # fmt: skip
def test_dangerous_applications(application: str, group: str) -> None:
    assert dangerous_application(application) == group
    assert tokens("originate", ("APPLICATION", application)) == [f"Originate:{group}"]
    assert tokens("Originate", ("Application", "Wait"), ("Application", application)) == [f"Originate:{group}"]


@pytest.mark.parametrize("application", ["Dial", "Wait", "Queue", "Playback", "ConfBridge", "Set", "AgentLogin", ""])
def test_other_applications(application: str) -> None:
    assert dangerous_application(application) is None


def test_a_queue_with_an_agi_script() -> None:
    assert tokens("Originate", ("Application", "qUeUe"), ("Data", "sales,,,,,run.agi")) == ["Originate:AGI"]
    assert tokens("Originate", ("Application", " \x02Queue"), ("Data", "sales,,,,,run.agi")) == ["Originate:AGI"]
    assert tokens("Originate", ("Application", "Queue"), ("Data", "sales,,,,, ,macro")) == []


@pytest.mark.parametrize(
    ("text", "functions"),
    [
        ("${SHELL(ls)}", ["SHELL"]), ("SHELL(x)=1", ["SHELL"]), ("shell(ls)", ["SHELL"]), ("${ShElL (ls)}", ["SHELL"]),
        ("__SHELL(x)=1", ["SHELL"]), ("a=1,FILE(/etc/passwd)=x", ["FILE"]), ("${CURL(http://x)}", ["CURL"]),
        ("${DB(a/b)}", ["DB"]), ("${DB_DELETE(a/b)}", ["DB_DELETE"]), ("ODBC_ANYTHING(x)", ["ODBC_ANYTHING"]),
        ("${REALTIME(a,b)}", ["REALTIME"]), ("${EVAL(${x})}", ["EVAL"]), ("${LEN(${SHELL(ls)})}", ["SHELL"]),
        ("AST_CONFIG(manager.conf,a,secret)", ["AST_CONFIG"]), ("CONFBRIDGE(bridge,record_command)=x", ["CONFBRIDGE"]),
        ("${FILE(a)}${FILE(b)}${DB(c)}", ["FILE", "DB"]), ("ENV(PATH)=x", ["ENV"]),
        ("${SH${x}ELL(ls)}", ["computed"]), ("${$[1]x(ls)}", ["computed"]),
        ("${CALLERID(num)}", []), ("${x:${n}}", []), ("${LEN(${x})}", []), ("DATABASE(x)", []), ("PROFILE(x)", []),
        ("FILE", []), ("a file.wav", []), ("", []),
    ],
)  # fmt: skip
def test_dangerous_functions(text: str, functions: list[str]) -> None:
    assert dangerous_functions_in(text) == functions
    risks = [f"function:{function}" for function in functions]
    assert tokens("Originate", ("Variable", text)) == risks
    assert tokens("Originate", ("Variable", "a=1"), ("vARIABLE", text)) == risks
    assert tokens("Originate", ("Application", "Set"), ("Data", text)) == risks
    assert tokens("Getvar", ("Variable", text)) == risks
    assert tokens("Setvar", ("Variable", text), ("Value", "x")) == risks
    assert tokens("Status", ("Variables", f"A,{text}")) == risks


@pytest.mark.parametrize("function", DANGEROUS_FUNCTIONS)
def test_every_dangerous_function_is_found_by_its_own_name(function: str) -> None:
    assert dangerous_functions_in(f"${{{function}(x)}}") == [function]


def test_a_value_that_is_evaluated_later() -> None:
    assert tokens("Setvar", ("Variable", "x"), ("Value", "${SHELL(ls)}")) == ["function:SHELL"]


def test_variables_that_are_run() -> None:
    assert tokens("Setvar", ("Variable", "monitor_exec"), ("Value", "rm")) == ["variable:MONITOR_EXEC"]
    assert tokens("Originate", ("Variable", "a=1,__MONITOR_EXEC=rm")) == ["variable:MONITOR_EXEC"]
    assert tokens("Setvar", ("Variable", "MONITOR_EXECUTED"), ("Value", "1")) == []


def test_all_risks_are_told_once() -> None:
    pairs = [("Application", "System"), ("Application", "TrySystem"), ("Data", "${CURL(a)}${CURL(b)}")]
    assert tokens("Originate", *pairs) == ["Originate:System", "function:CURL"]


def test_reads_function() -> None:
    assert reads_function("CALLERID(num)")
    assert not reads_function("DIALSTATUS")


# -- recording, hanging up


@pytest.mark.parametrize(
    ("action", "header", "value"),
    [
        ("MixMonitor", "Command", "rm -rf /"), ("mixmonitor", "cOMMAND", " rm"),
        ("MixMonitor", "File", "a.wav,,rm -rf /"),
        ("MixMonitor", "Options", "b,rm"), ("ConfbridgeStartRecord", "RecordFile", "a.wav,,rm"),
    ],
)  # fmt: skip
def test_a_program_after_the_recording(action: str, header: str, value: str) -> None:
    [token] = tokens(action, ("Channel", "PJSIP/1-1"), (header, value))
    assert token.lower() == f"{action}:command".lower()


@pytest.mark.parametrize("channel", ["/.*/", "/./", " /.*/", "\t\x01/x/", "/"])
def test_regex_hangups(channel: str) -> None:
    assert is_regex_channel(channel)
    assert tokens("Hangup", ("Channel", channel)) == ["regex-hangup"]
    assert tokens("pjsiphangup", ("channel", channel)) == ["regex-hangup"]
    assert tokens("Hangup", ("Channel", "PJSIP/1"), ("Channel", channel)) == ["regex-hangup"]


def test_a_channel_is_no_regex() -> None:
    assert not is_regex_channel("PJSIP/100-00000001")
    assert not is_regex_channel("")


# -- secrets


@pytest.mark.parametrize(
    ("pairs", "masked"),
    [
        ([("Username", "a"), ("sEcReT", "s")], [("Username", "a"), ("sEcReT", "***")]),
        ([("AuthType", "MD5"), ("Key", "s")], [("AuthType", "MD5"), ("Key", "***")]),
        ([("Family", "CF"), ("Key", "100")], [("Family", "CF"), ("Key", "100")]),
        ([("NewPassword", "s"), ("Pin", "s"), ("SipSecret", "s")],
         [("NewPassword", "***"), ("Pin", "***"), ("SipSecret", "***")]),
        ([("Variable", "DB_PASSWORD"), ("Value", "s")], [("Variable", "DB_PASSWORD"), ("Value", "***")]),
        ([("Variable", "NAME"), ("Value", "v")], [("Variable", "NAME"), ("Value", "v")]),
        ([("Variable", "a=1,__SECRET=s,b=2"), ("Variable", "c=3")],
         [("Variable", "a=1,__SECRET=***"), ("Variable", "c=3")]),
        ([("Var-000000", "secret"), ("Value-000000", "s"), ("Var-000001", "host"), ("Value-000001", "h")],
         [("Var-000000", "secret"), ("Value-000000", "***"), ("Var-000001", "host"), ("Value-000001", "h")]),
        ([], []),
    ],
)  # fmt: skip
def test_mask(pairs: list[tuple[str, str]], masked: list[tuple[str, str]]) -> None:
    before = list(pairs)
    assert mask(pairs) == masked
    assert pairs == before


def test_secret_names() -> None:
    assert is_secret_name("Password")
    assert is_secret_name("vmSecret")
    assert not is_secret_name("Channel")
    assert not is_secret_name("Keypad")


def test_sensitive_events_are_in_lower_case() -> None:
    assert {name.lower() for name in SENSITIVE_EVENTS} == SENSITIVE_EVENTS
    assert "voicemailpasswordchange" in SENSITIVE_EVENTS
