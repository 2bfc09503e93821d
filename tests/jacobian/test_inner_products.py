"""Inner products of rows, by oneDNN where that is faster, and by PyTorch's own product."""

import platform
from pathlib import Path

import pytest
import torch

from jacoscope.jacobian import _inner_products as products
from jacoscope.jacobian._inner_products import inner_products, is_fast
from jacoscope.jacobian._products import row_products


@pytest.mark.parametrize("slighted", [True, False])
def test_inner_products(monkeypatch: pytest.MonkeyPatch, slighted: bool) -> None:
    monkeypatch.setattr(products, "_is_slighted", lambda: slighted)
    first, second = torch.randn(60, 500), torch.randn(70, 500)
    for left, right in (
        (first, second),
        (first[:3], second[:2]),
        (first[:, ::2], second[:, ::2]),  # in another order than oneDNN is fast for
        (first.T.contiguous().T, second),
        (first.double(), second.double()),
        (first[:0], second),
        (first[:, :0], second[:, :0]),
    ):
        expected = left.double() @ right.double().T
        found = inner_products(left, right)
        assert found.dtype == left.dtype
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(
            row_products(left).double(), left.double() @ left.double().T, rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize(
    ("capability", "vendor", "is_left"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX512_VNNI", "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", True),
        ("AVX512", "GenuineIntel", False),
        ("AVX2", "AuthenticAMD", False),
        ("AVX2", "GenuineIntel", False),
        ("DEFAULT", "", False),
    ],
)
def test_one_dnn_where_mkl_leaves_out_the_widest_registers(
    monkeypatch: pytest.MonkeyPatch, capability: str, vendor: str, is_left: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    products._is_slighted.cache_clear()
    try:
        found = is_fast(torch.randn(3, 5))
    finally:
        products._is_slighted.cache_clear()
    assert found is (is_left and products._LINEAR is not None)
    monkeypatch.setattr(products, "_LINEAR", None)
    assert not is_fast(torch.randn(3, 5))


def test_who_made_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(products, "Path", lambda _: told)
    monkeypatch.setattr(platform, "processor", lambda: "AMD64, AuthenticAMD")
    assert products._vendor() == "AMD64, AuthenticAMD"
    told.write_text("processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n")
    assert products._vendor() == "GenuineIntel"
    told.write_bytes(b"processor\t: 0\nCPU implementer\t: 0x41\nmodel name\t: \xff\n")  # not x86
    assert not products._vendor()


def test_rows_in_another_order_are_not_left_to_one_dnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_is_slighted", lambda: True)
    rows = torch.randn(60, 500)
    assert is_fast(rows) is (products._LINEAR is not None)
    assert not is_fast(rows.T)
    assert not is_fast(rows[:, ::2])
    assert not is_fast(rows.double())
