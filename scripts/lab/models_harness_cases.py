"""The models of `models_harness.py`, and how each is exported: by its library's name, or by a folder or function as its user has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

FAMILIES = ("torchvision", "timm", "transformers", "segmentation", "texts")
NETWORKS = Path(__file__).with_name("models_harness_networks.py")


THIN = {"depth": 3, "embed_dim": 96, "num_heads": 3}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model by the name that the table has; `source` is what `camflow export` is given, a folder's builder after `folder:`."""

    family: str
    source: str
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.source.removeprefix("folder:").removeprefix("function:")

    def reference(self, folder: Path) -> tuple[str, list[str]]:
        """(what `camflow export` is given, its flags); folders are written into `folder`."""
        kind, _, name = self.source.partition(":")
        if kind == "folder":
            import models_harness_networks

            path = folder / name
            if name in SMALLER:
                models_harness_networks.save_timm(name, SMALLER[name], path)
            else:
                models_harness_networks.save(name, path)
            return str(path), list(self.flags)
        if kind == "function":
            return f"{NETWORKS}:{name}", ["--preprocess", "imagenet", *self.flags]
        return self.source, ["--weights", "none", "--warm-batchnorm", "4", *self.flags]


def _models(family: str, prefix: str, names: str, *flags: str) -> list[Model]:
    return [Model(family, f"{prefix}:{name}", flags) for name in names.split()]


# timm's with fewer and thinner blocks, in folders as `timm.models.save_for_hf` writes them
SMALLER: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": THIN,
    "cait_xxs24_224": {"depth": 3},
    "coat_tiny": {"serial_depths": [1, 1, 1, 1], "parallel_depth": 1},
    "convit_tiny": {"depth": 4, "local_up_to_layer": 2},
    "convnextv2_atto": {"depths": [1, 1, 2, 1]},
    "crossvit_tiny_240": {"depth": [[1, 2, 0], [1, 2, 0], [1, 2, 0]]},
    "davit_tiny": {"depths": [1, 1, 1, 1], "embed_dims": [32, 48, 64, 96], "num_heads": [2, 3, 4, 6]},
    "deit_tiny_distilled_patch16_224": {"depth": 3},
    "deit_tiny_patch16_224": {"depth": 3},
    "densenet121": {"block_config": [2, 2, 2, 2]},
    "edgenext_xx_small": {"depths": [1, 1, 3, 1]},
    "efficientformerv2_s0": {"depths": [1, 1, 2, 2]},
    "eva02_tiny_patch14_336": {"depth": 3, "img_size": 224},
    "gmlp_ti16_224": {},
    "hiera_tiny_224": {"stages": [1, 1, 2, 1], "embed_dim": 32},
    "inception_next_atto": {"depths": [1, 1, 2, 1]},
    "mambaout_femto": {"depths": [1, 1, 2, 1]},
    "mixer_s32_224": {},
    "pvt_v2_b0": {"depths": [1, 1, 1, 1]},
    "res2net50_26w_4s": {"layers": [1, 1, 1, 1]},
    "resmlp_12_224": {},
    "resnet26": {"layers": [1, 1, 1, 1]},
    "resnetv2_18": {"layers": [1, 1, 1, 1]},
    "samvit_base_patch16_224": {**THIN, "global_attn_indexes": [2]},
    "sequencer2d_s": {"layers": [1, 1, 2, 1], "embed_dims": [32, 48, 48, 48], "hidden_sizes": [8, 12, 12, 12]},
    "seresnext26d_32x4d": {"layers": [1, 1, 1, 1]},
    "skresnet18": {"layers": [1, 1, 1, 1]},
    "swin_tiny_patch4_window7_224": {"depths": [2, 2, 2, 2], "embed_dim": 24},
    "swinv2_cr_tiny_224": {"depths": [2, 2, 2, 2], "embed_dim": 24},
    "swinv2_tiny_window8_256": {"depths": [2, 2, 2, 2], "embed_dim": 24},
    "tiny_vit_5m_224": {"depths": [1, 1, 1, 1]},
    "tnt_s_legacy_patch16_224": {"depth": 3},
    "twins_pcpvt_small": {"depths": [1, 1, 1, 1]},
    "twins_svt_small": {"depths": [1, 1, 2, 1]},
    "vit_base_patch16_siglip_224": THIN,
    "vit_base_patch32_clip_224": THIN,
    "vit_relpos_medium_patch16_rpn_224": THIN,
    "vit_relpos_small_patch16_224": {"depth": 3},
    "vit_small_patch14_reg4_dinov2": {"depth": 3, "img_size": 224},
    "vit_srelpos_small_patch16_224": {"depth": 3},
    "vit_tiny_r_s16_p8_224": {"depth": 3},
    "xcit_nano_12_p8_224": {"depth": 3},
}

CASES: list[Model] = [
    *_models(
        "torchvision",
        "torchvision",
        """alexnet convnext_tiny deeplabv3_mobilenet_v3_large densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3
        lraspp_mobilenet_v3_large maxvit_t mnasnet1_0 mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d
        shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11_bn fcn_resnet50""",
    ),
    Model("torchvision", "function:vit_b_32"),
    *[Model("timm", f"folder:{name}") for name in SMALLER],
    *_models(
        "timm",
        "timm",
        """cs3darknet_focus_s cspnext_tiny dla46x_c efficientnet_lite0 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0
        ghostnet_050 lcnetv2_small legacy_seresnet18 levit_128s mixnet_s mobilenetv3_small_050 mobilenetv4_conv_small mobilevit_xxs
        mobilevitv2_050 pit_ti_224 regnetx_002 repghostnet_050 repvgg_a0 repvit_m1 rexnet_100 shvit_s1 starnet_s050 swiftformer_xs
        test_nfnet test_coatnet tf_efficientnetv2_b0 botnet26t_256 halonet_h1 coatnet_nano_cc_224 efficientformer_l1 fastvit_t8
        hardcorenas_b hgnetv2_b0 visformer_tiny focalnet_tiny_srf gcvit_xxtiny mvitv2_tiny nest_tiny
        volo_d1_224 poolformerv2_s12 caformer_s18 selecsls42 tresnet_m xception41p hrnet_w18_small vitamin_small_224
        cpubone_nano efficientvim_m1 iformer_t lowformer_b0 rdnet_tiny dpn48b""",
    ),
    *_models(
        "transformers",
        "folder",
        """beit bit clip_classifier convnext convnextv2 cvt data2vec_vision deit deit_teacher dinov2 dinov2_with_registers
        efficientnet focalnet hgnet_v2 hiera ijepa levit levit_teacher metaclip_2_classifier mobilenet_v1 mobilenet_v2 mobilevit
        mobilevitv2 poolformer pp_lcnet pvt pvt_v2 regnet resnet segformer_classifier siglip_classifier swiftformer swin swinv2
        textnet timm_wrapper vit vit_msn""",
    ),
    *_models("segmentation", "folder", "dpt eomt mask2former maskformer mobilevit_maps oneformer segformer upernet beit_maps"),
    *_models(
        "segmentation",
        "smp",
        """unet:resnet18 unetplusplus:resnet18 manet:resnet18 linknet:resnet18 fpn:resnet18 pspnet:resnet18 deeplabv3:resnet18
        deeplabv3plus:mobilenet_v2 pan:resnet18 upernet:resnet18 segformer:mit_b0 unet:efficientnet-b0 unet:tu-regnetx_002
        dpt:tu-vit_tiny_patch16_224""",
        "--preprocess",
        "imagenet",
        "--num-classes",
        "3",
    ),
    *_models(
        "texts", "folder", "align altclip chinese_clip clip metaclip_2 siglip groupvit clipseg", "--classes", "cat,dog,bird"
    ),
    *_models(
        "texts",
        "function",
        """open_clip_vit open_clip_resnet open_clip_convnext open_clip_coca openai_clip_resnet
        openai_clip_vit""",
    ),
]
