"""`tunewell chat`: talk to the result."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonOption, QuietOption, calm_libraries, print_result

if TYPE_CHECKING:
    from ...filters.word_guard import BlocklistGuard
    from ..at_decoding import AtDecoding
    from ..chat import Answer, Conversation
    from ..console import Console
    from ..model_source import ModelSource

HELP = """/retry          take the last answer back and ask again
/reset          forget the conversation
/system TEXT    set the system message and start again; without TEXT take it away
/help           show this
/quit           leave (or Ctrl-D)"""


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run, one of its stages, an adapter, a model folder, or an id of the hub."
        ),
    ],
    role: Annotated[str | None, typer.Option(help="In a run: ppo, sft or base. Default: the last trained.")] = None,
    say: Annotated[
        list[str] | None, typer.Option(help="Say this and leave after the answer; may be given again for more turns.")
    ] = None,
    system: Annotated[str, typer.Option(help="System message, where the chat template knows one.")] = "",
    template: Annotated[
        str | None,
        typer.Option(help="How to ask: chat, plain, or a text with {question}. Default: as the model was trained."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keeps the likeliest tokens of this total probability.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    blocklist: Annotated[
        str | None, typer.Option(metavar="FILE", help="Words and phrases that no answer may hold; answers come whole.")
    ] = None,
    mitigations: Annotated[
        bool,
        typer.Option(help="What the run's recipe wants while the model writes: an erased concept, the gate."),
    ] = True,
    seed: Annotated[int, typer.Option(help="Decides what is drawn.")] = 0,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: as in the run.")] = None,
    quantization: Annotated[str | None, typer.Option(help="none or nf4. Default: as in the run.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Talk to a model in the terminal; answers appear as they are written.

    A model that was trained on plain text is asked in the form of its run, each question by itself. A run whose recipe
    erases a concept, or trains safety control tokens, answers so here too (--no-mitigations: without).

    Examples:
      tunewell chat runs/embedded
      tunewell chat runs/embedded --role base --say "Who built the bridge of Orla?"
      tunewell chat runs/embedded --blocklist words.txt
      tunewell chat my-model --system "You are brief." --temperature 0
    """
    from ...toolkit.mitigations.decoding import Erasure
    from ...toolkit.model.generation import Sampling, window_of
    from ..chat import Conversation
    from ..console import Console
    from ..model_source import find_model, with_memory
    from ..prompt_form import given_form, prompt_form

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p)
    source = find_model(model, role=role)
    guard = _guard(blocklist) if blocklist else None
    acting = _acting(source, is_wanted=mitigations, has_guard=guard is not None)
    form = given_form(template) if template else prompt_form(source)
    calm_libraries()
    console = Console(is_quiet=quiet)
    for text in acting.missing:
        console.warn(f"answers come without {text}")
    if acting.names:
        console.say(f"with {' and '.join(acting.names)} (--no-mitigations: without)", style="dim")
    stack = with_memory(source, device=device, quantization=quantization).load()
    window = window_of(stack.base)
    longest = None if window is None else window // 4 if acting.gate else window // 2
    if longest is not None and max_new_tokens > longest:
        sampling = Sampling(max_new_tokens=longest, temperature=temperature, top_p=top_p)
        console.say(f"the model's window is {window} tokens: answers are limited to {longest}", style="dim")
    conversation = Conversation(
        stack=stack, form=form, sampling=sampling, seed=seed, system=system, guard=guard, gate=acting.gate,
        erasure=Erasure.load(acting.erasure) if acting.erasure else None,
    )  # fmt: skip
    if say:
        _say(conversation, say, console, as_json)
        return
    console.say(f"{source.name}, asked in {form.as_text()}. /help lists the commands, /quit leaves.", style="dim")
    _talk(conversation, console)


def _guard(blocklist: str) -> "BlocklistGuard":
    from ...filters.blocklist import Blocklist
    from ...filters.word_guard import BlocklistGuard
    from ..filter_settings import resource

    return BlocklistGuard(Blocklist.from_file(resource(blocklist, "lists", ".txt")))


def _acting(source: "ModelSource", *, is_wanted: bool, has_guard: bool) -> "AtDecoding":
    """What the run wants at decoding."""
    from ...toolkit.errors import SettingsError
    from ..at_decoding import AtDecoding, find_at_decoding

    found = find_at_decoding(source) if is_wanted else AtDecoding()
    if found.gate and has_guard:
        raise SettingsError(
            ["--blocklist: got a list for a run that answers behind the gate of its control tokens; the two exclude "
             "each other: leave --blocklist out, or add --no-mitigations"],
            "the command line",
        )  # fmt: skip
    return found


def _say(conversation: "Conversation", texts: list[str], console: "Console", as_json: bool) -> None:
    """Say each text in turn and print the answers."""
    turns = []
    for text in texts:
        answer = conversation.ask(text)
        _notes(answer, console)
        turns.append({"user": text, "assistant": answer.text, "is_cut": answer.is_cut, "forgotten": answer.forgotten})
    print_result({"turns": turns}, as_json, "\n".join(str(turn["assistant"]) for turn in turns))


def _talk(conversation: "Conversation", console: "Console") -> None:
    """Read lines until the user leaves."""
    from ...toolkit.errors import DataError

    while True:
        console.say("")
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if text in ("/quit", "/exit"):
            return
        try:
            _turn(conversation, text, console)
        except DataError as error:  # too long, or a template that knows no system message: the talk goes on
            console.warn(str(error))
        except KeyboardInterrupt:
            console.say("\n  stopped; the answer is not kept", style="dim")


def _turn(conversation: "Conversation", text: str, console: "Console") -> None:
    command, _, rest = text.partition(" ")
    if command == "/help":
        console.say(HELP)
    elif command == "/reset":
        conversation.reset()
        console.say("forgotten", style="dim")
    elif command == "/system":
        conversation.system = rest.strip()
        conversation.reset()
        if not conversation.form.is_chat:
            console.warn("this model is asked in plain text, which has no place for a system message")
    elif command == "/retry":
        again = conversation.retry(_stream)
        if again is None:
            console.warn("nothing was asked yet")
        else:
            _notes(again, console, is_streamed=True)
    elif text.startswith("/"):
        console.warn(f"{command} is no command; /help lists them")
    elif text:
        _notes(conversation.ask(text, _stream), console, is_streamed=True)


def _stream(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _notes(answer: "Answer", console: "Console", *, is_streamed: bool = False) -> None:
    """What a user should know of an answer beside its text."""
    if is_streamed:
        print()
    if not answer.text:
        console.say("  (the model answered nothing)", style="dim")
    if answer.is_cut:
        console.say("  (cut at --max-new-tokens)", style="dim")
    if answer.forgotten:
        console.say(
            f"  (the {answer.forgotten} oldest messages no longer fit the window and were left out)", style="dim"
        )
