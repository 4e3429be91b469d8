// Products of 16 x 16 tiles by a warp: the tensor cores' f16 x f16 -> f32. Whole numbers up to 2048 are exact in f16, and
// so are sums of their products below 2^24.
#pragma once

#include "common.cuh"

// Rows, columns and depth of a tile.
const u32 TILE = 16;

// Whole numbers whose sums of products are exact in f32 stay below this.
const u32 EXACT = 1u << 24;

// A whole number of at most 11 bits as f16.
DEVICE u16 to_half(u32 value) {
    if (value == 0) return 0;
    u32 exponent = 31 - __clz(value);
    return u16((exponent + 15) << 10 | ((value << (10 - exponent)) & 0x3ffu));
}

// And back.
DEVICE u32 from_half(u16 half) {
    if (half == 0) return 0;
    u32 exponent = (half >> 10) - 15;
    return ((half & 0x3ffu) | 0x400u) >> (10 - exponent);
}

#ifdef SPECKLED_HOST

// A lane has all of a tile of factors, and of the products half a row.
struct Factors {
    u16 values[TILE * TILE];
};
struct Products {
    float values[8];
};

DEVICE void load(Factors &tile, const u16 *from, u32 stride) {
    __syncwarp();
    for (u32 k = 0; k < TILE * TILE; ++k) tile.values[k] = from[k / TILE * stride + k % TILE];
}

DEVICE void load_rows(Factors &tile, const u16 *from, u32 stride) { load(tile, from, stride); }
DEVICE void load_columns(Factors &tile, const u16 *from, u32 stride) { load(tile, from, stride); }

DEVICE void multiply(Products &sums, const Factors &rows, const Factors &columns) {
    __syncwarp();
    for (u32 k = 0; k < 8; ++k) {
        const u16 *row = rows.values + lane() / 2 * TILE, *column = columns.values + (lane() % 2 * 8 + k) * TILE;
        for (u32 depth = 0; depth < TILE; ++depth) {
            sums.values[k] += float(from_half(row[depth])) * float(from_half(column[depth]));
        }
    }
}

DEVICE void leave(float *to, const Products &sums) {
    __syncwarp();
    for (u32 k = 0; k < 8; ++k) to[lane() / 2 * TILE + lane() % 2 * 8 + k] = sums.values[k];
}

#else

// Which lane has what of a tile is the hardware's affair.
struct Factors {
    u32 values[8];
};
struct Products {
    float values[8];
};

#define LOAD(name, operand, order)                                                                                       \
    DEVICE void name(Factors &tile, const u16 *from, u32 stride) {                                                       \
        asm volatile("wmma.load." operand ".sync.aligned." order ".m16n16k16.shared.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, [%8], %9;" \
                     : "=r"(tile.values[0]), "=r"(tile.values[1]), "=r"(tile.values[2]), "=r"(tile.values[3]),            \
                       "=r"(tile.values[4]), "=r"(tile.values[5]), "=r"(tile.values[6]), "=r"(tile.values[7])             \
                     : "r"(u32(__cvta_generic_to_shared(from))), "r"(stride)                                             \
                     : "memory");                                                                                        \
    }

LOAD(load_rows, "a", "row")
LOAD(load_columns, "b", "col")

DEVICE void multiply(Products &sums, const Factors &rows, const Factors &columns) {
    float *own = sums.values;
    const u32 *a = rows.values, *b = columns.values;
    asm("wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%0,%1,%2,%3,%4,%5,%6,%7}, "
        "{%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19,%20,%21,%22,%23}, {%0,%1,%2,%3,%4,%5,%6,%7};"
        : "+f"(own[0]), "+f"(own[1]), "+f"(own[2]), "+f"(own[3]), "+f"(own[4]), "+f"(own[5]), "+f"(own[6]), "+f"(own[7])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]), "r"(b[0]), "r"(b[1]),
          "r"(b[2]), "r"(b[3]), "r"(b[4]), "r"(b[5]), "r"(b[6]), "r"(b[7]));
}

// Row by row, to shared memory.
DEVICE void leave(float *to, const Products &sums) {
    const float *own = sums.values;
    asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [%0], {%1,%2,%3,%4,%5,%6,%7,%8}, %9;"
                 :
                 : "r"(u32(__cvta_generic_to_shared(to))), "f"(own[0]), "f"(own[1]), "f"(own[2]), "f"(own[3]), "f"(own[4]),
                   "f"(own[5]), "f"(own[6]), "f"(own[7]), "r"(TILE)
                 : "memory");
}

#endif
