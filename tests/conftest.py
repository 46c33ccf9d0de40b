import os
import tempfile

# code that PyTorch compiled for other vector instructions must not be taken from its cache
if "ATEN_CPU_CAPABILITY" in os.environ:
    folder = os.path.join(tempfile.gettempdir(), f"openpali-inductor-{os.environ['ATEN_CPU_CAPABILITY']}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)

# whoever asks for the Hub is told at once that it is not there, and not after a minute of attempts
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny_paligemma import tiny_paligemma as random_paligemma
from tiny_paligemma import tiny_paligemma_processor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from openpali import Pali3Config, Pali3ForConditionalGeneration, Pali3Processor
from openpali.data.tokenizer import train_tokenizer
from openpali.modeling.transformers_versions import peft_refusal

# tiny models are slower on several threads; a number that the user set is kept
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(1)

# a busy machine is slow at making examples, which says nothing about them
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

SENTENCES = ["what is this", "caption en", "a red dog", "two green cats", "detect dog"]
SIDE, PATCH = 16, 8


def pytest_collection_modifyitems(items):
    """Tests of adapters are not run where Transformers refuses the installed peft; that is told, with its reason."""
    if refusal := peft_refusal():
        for item in items:
            parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
            if item.get_closest_marker("adapters") or {"lora", "qlora", "dora"} & {str(one) for one in parameters}:
                item.add_marker(pytest.mark.skip(reason=refusal))


@pytest.fixture(autouse=True)
def fresh_compiler(request):
    """Shapes that an earlier test has compiled become dynamic in the next one, which this compiler cannot lower."""
    if "flex" in request.node.name:
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        if not pick_vec_isa():
            pytest.skip("PyTorch compiles FlexAttention for processors with vector instructions only, AVX2 or later")
        torch.compiler.reset()


@pytest.fixture(scope="module")
def one_thread():
    """As many as in other processes, for the same order of sums; and forked ones would wait for the other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """About 1,450 tokens: bytes, a few joined pairs, locations, segments and `<image>`. Do not change it."""
    return train_tokenizer(SENTENCES * 4, vocab_size=300)


@pytest.fixture
def tiny_processor(tiny_tokenizer):
    """Images of 16 px, four tokens each."""
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return Pali3Processor(image_processor, tiny_tokenizer, image_seq_length=(SIDE // PATCH) ** 2)


@pytest.fixture
def tiny_model(tiny_processor):
    """A random PaLI-3 that fits `tiny_processor` and whose answer depends on the image."""
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH}
    text = {"model_type": "t5", "vocab_size": len(tiny_processor.tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 32}
    text |= {"num_layers": 1, "num_heads": 2, "dropout_rate": 0.0, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    config = Pali3Config(vision_config=vision, text_config=text, image_token_id=tiny_processor.image_token_id)
    model = Pali3ForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.model.encoder.projector.output.weight, std=0.5)
    return model


@pytest.fixture
def tiny_paligemma(tiny_tokenizer):
    """A random PaliGemma whose answer depends on the image, and its processor."""
    processor = tiny_paligemma_processor(tiny_tokenizer)
    return random_paligemma("gemma", processor), processor
