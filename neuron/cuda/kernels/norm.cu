// x += added, and what the next matrices are multiplied with: x normalised by its root mean square.
#include "base.cuh"

struct AddNorm {
    float* x;             // [tokens, width]
    const float* added;   // [tokens, width]; null: nothing is added
    const float* post;    // [width]; null: what is added is not normalised first
    const float* weight;  // [width]
    const int32_t* rows;  // of x and added; null: as they are
    void* out;            // [rows, width]
    void* groups;         // where out is in 8 bits: Rounded [rows, width / 32]
    int32_t width;
    float epsilon;
};

template <class A>
__device__ void add_norm(const AddNorm& p) {
    SHARED(float, scratch, 32);
    int64_t from = p.rows ? p.rows[blockIdx.x] : blockIdx.x;
    float* x = p.x + from * p.width;
    float squares = 0.f;
    if (p.added) {
        const float* added = p.added + from * p.width;
        float scale = 1.f;
        if (p.post) {
            float own = 0.f;
            for (int i = threadIdx.x; i < p.width; i += blockDim.x) own += added[i] * added[i];
            scale = 1.f / sqrtf(block_sum(own, scratch) / p.width + p.epsilon);
        }
        for (int i = threadIdx.x; i < p.width; i += blockDim.x) {
            float sum = x[i] + (p.post ? added[i] * scale * p.post[i] : added[i]);
            x[i] = sum;
            squares += sum * sum;
        }
    } else {
        for (int i = threadIdx.x; i < p.width; i += blockDim.x) squares += x[i] * x[i];
    }
    float scale = 1.f / sqrtf(block_sum(squares, scratch) / p.width + p.epsilon);
    Sink<A> sink(p.out, p.groups, blockIdx.x, p.width);
    // Each thread reads what it wrote itself.
    for (int i = threadIdx.x; i < p.width; i += blockDim.x) sink.put(i, x[i] * scale * p.weight[i]);
}

KERNEL(add_norm_f32, AddNorm, 256, add_norm<float>)
KERNEL(add_norm_f16, AddNorm, 256, add_norm<f16>)
KERNEL(add_norm_bf16, AddNorm, 256, add_norm<bf16>)
KERNEL(add_norm_q8, AddNorm, 256, add_norm<int8_t>)

// out = activation(gate) * up
struct GateUp {
    const float* gate_up;  // [tokens, 2 * width]: gates, then ups
    void* out;             // [tokens, width]
    void* groups;          // where out is in 8 bits: Rounded [tokens, width / 32]
    int32_t width;
    int32_t gelu;  // 1: GELU by tanh; 0: SiLU
};

template <class A>
__device__ void gate_up(const GateUp& p) {
    int64_t token = blockIdx.y;
    const float* gates = p.gate_up + token * 2 * p.width;
    Sink<A> sink(p.out, p.groups, token, p.width);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.width) return;
    float x = gates[i], up = gates[p.width + i];
    float active = p.gelu ? 0.5f * x * (1.f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)))
                          : x / (1.f + expf(-x));
    sink.put(i, active * up);
}

KERNEL(gate_up_f32, GateUp, 256, gate_up<float>)
KERNEL(gate_up_f16, GateUp, 256, gate_up<f16>)
KERNEL(gate_up_bf16, GateUp, 256, gate_up<bf16>)
KERNEL(gate_up_q8, GateUp, 256, gate_up<int8_t>)

// Activations that are there in one form, in another.
struct Convert {
    const float* x;  // [tokens, width]
    void* out;
    void* groups;
    int32_t width;
};

template <class A>
__device__ void convert(const Convert& p) {
    int64_t token = blockIdx.y;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.width) return;
    Sink<A> sink(p.out, p.groups, token, p.width);
    sink.put(i, p.x[token * p.width + i]);
}

KERNEL(convert_f32, Convert, 256, convert<float>)
KERNEL(convert_f16, Convert, 256, convert<f16>)
KERNEL(convert_bf16, Convert, 256, convert<bf16>)
KERNEL(convert_q8, Convert, 256, convert<int8_t>)
