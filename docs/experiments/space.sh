# bash docs/experiments/space.sh: all figures of docs/intrinsic-dimension.md, into runs/space (egg-lm[geometry] installed)
set -eu
here=$(dirname "$0") out=runs/space
egg compare "$here/intrinsic_dimension.toml" --out $out/models
python "$here/languages.py" $out/languages
adapt() { # FOLDER CKPT... FLAGS...
    egg intrinsic-dimension "${@:2}" --data $out/languages --classify --tokens 100K --eval-bytes 0 --seeds 1 \
        --tensors gru,w_down,head --step-factors 0.5,1 --out "$out/$1"
}
small=(--dimensions 4,64,256,1024,4096,8192,16384,32768,65536 --ranks 2,16 --whole "vectors,head;vectors,embedding,head,gru")
adapt d90 $out/models/{16-1,64-1,64-2}-*/seed-? "${small[@]}"
adapt d90-256 $out/models/256-2-*/seed-? --dimensions 1024,4096,16384,65536,131072,262144 --ranks 16 \
    --whole "vectors,head;vectors,embedding,head,gru"
for seed in 1 2 3; do
    egg geometry $out/models/*/seed-$seed --data stdlib --points 2048 --out $out/checkpoints-$seed
    python "$here/geometry.py" $out/first-steps-$seed --hidden-size 64 --num-layers 2 --tokens 1M --seed $seed
    python "$here/geometry.py" $out/spikes-$seed --hidden-size 64 --num-layers 1 --tokens 200k --every 4 --step-size 6 \
        --schedule constant --points 1024 --seed $seed
    egg train --preset quickstart --hidden-size 64 --num-layers 6 --tokens 1M --step-size 0.6 \
        --checkpoint-every 500 --keep all --seed $seed --out $out/64-6-$seed
    egg geometry $out/64-6-$seed/checkpoints/* --data stdlib --points 2048 --out $out/layers-$seed
done
