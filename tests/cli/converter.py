"""Stands in for llama.cpp's convert_hf_to_gguf.py: writes a GGUF file of a model without weights.

It takes the arguments of the real one, writes them down beside itself, and does what the file
`does` beside it says: "well", or one of the ways in which the real one goes wrong.
"""

import argparse
import json
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--outfile", type=Path)
    parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
    given = parser.parse_args()
    here = Path(__file__).parent
    (here / "told").write_text(json.dumps(sys.argv[1:]))
    does = (here / "does").read_text() if (here / "does").is_file() else "well"
    if does == "unknown tokenizer":
        raise NotImplementedError(
            "BPE pre-tokenizer was not recognized - update get_vocab_base_pre()"
        )
    if does == "missing":
        raise ModuleNotFoundError("No module named 'sentencepiece'")
    if does == "architecture":
        sys.exit("ERROR:hf-to-gguf:Model OddForCausalLM is not supported")
    if does == "crash":
        given.outfile.write_bytes(b"half")
        raise RuntimeError("out of luck")
    if does == "text":
        given.outfile.write_bytes(b"not a file of this kind")
        return
    write(given.model, given.outfile, other_template=does == "other template")


def write(model: Path, file: Path, *, other_template: bool) -> None:
    from gguf import GGUFWriter

    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokens = {**tokenizer["model"]["vocab"]}
    tokens.update({one["content"]: one["id"] for one in tokenizer["added_tokens"]})
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    tokens.update({f"[PAD{n}]": n for n in range(len(tokens), size)})
    settings = json.loads((model / "tokenizer_config.json").read_text())
    template = model / "chat_template.jinja"
    writer = GGUFWriter(str(file), "llama")
    writer.add_token_list(sorted(tokens, key=tokens.__getitem__))
    writer.add_eos_token_id(tokens[settings["eos_token"]])
    if other_template:
        writer.add_chat_template("{{ messages }}")
    elif template.is_file():
        writer.add_chat_template(template.read_text())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


if __name__ == "__main__":
    main()
